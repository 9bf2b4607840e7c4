//! What operators are told of a right that is missing.

/// The name of the Role that operators are told to make where no ClusterRole has the rights.
const CERTIFICATES: &str = "tidegate-certificates";

/// The line that lets whoever `says` speaks of read what a ClusterRole allows, in one namespace.
pub(super) fn role_binding(says: &str, namespace: &str, role: &str) -> String {
    binding(says, namespace, role, "clusterrole")
}

/// The line that lets whoever `says` speaks of read the Secrets and ConfigMaps of one namespace. Without a ClusterRole for
/// that it makes a Role first.
pub(super) fn certificate_rights(says: &str, namespace: &str, role: Option<&str>) -> String {
    match role {
        Some(role) => role_binding(says, namespace, role),
        None => format!(
            "kubectl create role {CERTIFICATES} --namespace={namespace} --verb=get,list,watch --resource=secrets,configmaps \
             && {}",
            binding(says, namespace, CERTIFICATES, "role")
        ),
    }
}

fn binding(says: &str, namespace: &str, role: &str, kind: &str) -> String {
    // `secrets is forbidden: User "system:serviceaccount:NAMESPACE:NAME" cannot list resource …`
    let user = says.split_once("User \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    let account = user.and_then(|user| user.strip_prefix("system:serviceaccount:"));
    let subject = match (account, user) {
        (Some(account), _) => format!("--serviceaccount={account}"),
        (None, Some(user)) => format!("--user={user}"),
        (None, None) => "--serviceaccount=NAMESPACE:NAME".to_owned(),
    };
    format!("kubectl create rolebinding {role} --namespace={namespace} --{kind}={role} {subject}")
}
