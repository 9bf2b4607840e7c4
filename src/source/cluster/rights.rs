//! What operators are told of a right that is missing.

/// The line that lets whoever `says` speaks of read what a role allows, in one namespace.
pub(super) fn role_binding(says: &str, namespace: &str, role: &str) -> String {
    // `secrets is forbidden: User "system:serviceaccount:NAMESPACE:NAME" cannot list resource …`
    let user = says.split_once("User \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    let account = user.and_then(|user| user.strip_prefix("system:serviceaccount:"));
    let subject = match (account, user) {
        (Some(account), _) => format!("--serviceaccount={account}"),
        (None, Some(user)) => format!("--user={user}"),
        (None, None) => "--serviceaccount=NAMESPACE:NAME".to_owned(),
    };
    format!("kubectl create rolebinding {role} --namespace={namespace} --clusterrole={role} {subject}")
}
