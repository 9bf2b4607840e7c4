//! BasicAuth.

use std::sync::Arc;

use super::faults::Faults;
use super::list::List;
use super::{headers, secret};
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::kinds::secret::Secret;
use crate::model::credentials::PasswordFile;
use crate::model::filter::BasicAuth;

/// Checks the filter and finds its users; without them nobody is let in.
pub(super) fn basic_auth(
    filter: &api::BasicAuth,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<BasicAuth> {
    let before = report.count;
    let user_header = filter.user_header.as_deref();
    let user_header = user_header.map(|name| headers::set_by_filter(name, at.field("userHeader"), report));
    let users = secret::find(&filter.secret_ref, list, at, report, |secret: &Secret| match &secret.users {
        Some(Ok(users)) => Ok(Arc::clone(users)),
        Some(Err(why)) => Err(format!("its field {}: {why}", PasswordFile::FIELD)),
        None => Err(format!("it has no field {}", PasswordFile::FIELD)),
    });
    if let Some(users) = &users {
        let path = at.field("secretRef");
        let name = &filter.secret_ref.name;
        if users.stand_in().is_none() {
            let found = format!("Secret {}/{name} has no user", list.name.namespace);
            report.warn_of_secret(path, &found, "nobody is let in");
        } else if !users.repeated_lines().is_empty() {
            let lines: Vec<String> = users.repeated_lines().iter().map(ToString::to_string).collect();
            let found = format!(
                "Secret {}/{name}: in its field {} a user that stands further up has another line: {}",
                list.name.namespace,
                PasswordFile::FIELD,
                lines.join(", ")
            );
            report.warn_of_secret(path, &found, "the first line of a user counts");
        }
    }
    let own = list.name.to_string();
    let mut challenge = secret::challenge("Basic", filter.realm.as_deref().unwrap_or(&own)).as_bytes().to_vec();
    // Names and passwords are compared byte by byte (RFC 7617 §2.1).
    challenge.extend_from_slice(b", charset=\"UTF-8\"");
    let challenge = http::HeaderValue::from_bytes(&challenge).expect("a challenge and printable characters");
    let filter = BasicAuth { users, forward: filter.forward, user_header: user_header.unwrap_or_default(), challenge };
    (report.count == before).then_some(filter)
}
