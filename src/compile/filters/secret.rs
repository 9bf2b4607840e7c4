//! The Secrets that filters let clients in by, and what clients without a place in them are told.

use http::HeaderValue;

use super::faults::Faults;
use super::list::List;
use crate::api::conditions::ConditionReason;
use crate::api::filter::SecretNameRef;
use crate::compile::position::RulePos;
use crate::compile::report::{About, FieldPath};
use crate::kinds::secret::{NoPair, Problem, Secret};
use crate::model::ids::ObjectName;

/// What the field `secretRef` of a filter at `at` leads to, as `read` takes it from the Secret or says why it cannot;
/// `None` after a report: the filter stands, and lets nobody in.
pub(super) fn find<T>(
    reference: &SecretNameRef,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
    read: impl FnOnce(&Secret) -> Result<T, String>,
) -> Option<T> {
    let name = ObjectName::new(&*list.name.namespace, &*reference.name);
    let path = at.field("secretRef");
    let path = path.field("name");
    let secret = report.objects.secrets.get(&name).map(|secret| &*secret.object);
    let (reason, found) = match secret {
        None => (ConditionReason::FilterNotFound, format!("no Secret {name}")),
        Some(Secret { pair: Err(NoPair::Unreadable(why)), .. }) => {
            (ConditionReason::FilterNotFound, format!("Secret {name}: {why}"))
        }
        Some(secret) => match read(secret) {
            Ok(read) => {
                if let Some(Problem::EarlierStays(why)) = &secret.problem {
                    report.warn_of_secret(path, &format!("Secret {name}: {why}"), "what was read before stays active");
                }
                return Some(read);
            }
            Err(why) => (ConditionReason::InvalidFilter, format!("Secret {name}: {why}")),
        },
    };
    let expected = "a Secret with what clients prove who they are with";
    report.report.add_once(About::Filter(RulePos(report.rule)), reason, path, found, expected);
    None
}

/// The value of `www-authenticate`: a scheme, and the realm that clients are to prove who they are for (RFC 9110 §11.6.1).
pub(super) fn challenge(scheme: &str, realm: &str) -> HeaderValue {
    let mut text = format!("{scheme} realm=\"");
    for c in realm.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    HeaderValue::from_bytes(text.as_bytes()).expect("the schema admits no control bytes, and names have none")
}
