//! IPAccess.

use ipnet::IpNet;

use super::faults::Faults;
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::model::filter::IpAccess;
use crate::text;

/// Checks lists of networks.
pub(super) fn ip_access(access: &api::IpAccess, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<IpAccess> {
    let before = report.count;
    if access.allow.is_empty() && access.deny.is_empty() {
        report.drop_rule(at, "neither allow nor deny", "at least one address in one of them");
    }
    let mut networks = |list: &[String], name: &'static str| -> Vec<IpNet> {
        let parsed = list.iter().enumerate().filter_map(|(index, text)| {
            let network = text::network(text);
            if network.is_none() {
                let expected = "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32";
                report.drop_rule(at.item(name, index), format!("{text:?}"), expected);
            }
            network
        });
        parsed.collect()
    };
    let access = IpAccess { allow: networks(&access.allow, "allow"), deny: networks(&access.deny, "deny") };
    (report.count == before).then_some(access)
}
