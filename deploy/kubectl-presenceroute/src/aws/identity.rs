//! How the relay pods get AWS credentials, and the role that they are for.

use super::names::{MAX_NAME, fitted};

/// The annotation of a ServiceAccount that names the role of its pods, where the cluster has IRSA.
pub(super) const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

/// How the relay pods get AWS credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CredentialSource {
    /// IAM roles for service accounts: the cluster's OIDC provider vouches for the ServiceAccount.
    Irsa,
    /// EKS Pod Identity: an agent on the node gives the credentials.
    PodIdentity,
    /// An access key in a Secret. The template has a policy for its user, and no role.
    None,
}

/// An IAM role, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// The path, which begins and ends with a slash.
    pub(super) path: String,
    /// The name.
    pub(super) name: String,
}

/// Why a role cannot be made.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum RoleError {
    #[error("{0:?} is not the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME")]
    Arn(String),
    #[error(
        "{arn:?} is a role of another account than {account_id}, whose queue it is to read; name a role of that account, or \
         make the role yourself and pass --identity none"
    )]
    OtherAccount { arn: String, account_id: String },
}

impl Role {
    /// The role of this name, without a path.
    pub(super) fn called(name: &str) -> Self {
        Self { path: "/".into(), name: fitted(name, MAX_NAME) }
    }

    /// The role of this ARN, if it is one of the account.
    pub(super) fn of_arn(arn: &str, account_id: &str) -> Result<Self, RoleError> {
        let malformed = || RoleError::Arn(arn.to_owned());
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", _, "iam", "", account, resource] = parts.as_slice() else { return Err(malformed()) };
        let full_name = resource.strip_prefix("role/").ok_or_else(malformed)?;
        let (path, name) = match full_name.rsplit_once('/') {
            Some((path, name)) => (format!("/{path}/"), name),
            None => ("/".to_owned(), full_name),
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(malformed());
        }
        if *account != account_id {
            return Err(RoleError::OtherAccount { arn: arn.to_owned(), account_id: account_id.to_owned() });
        }
        Ok(Self { path, name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_from_its_arn() {
        let role = Role::of_arn("arn:aws:iam::123456789012:role/presence", "123456789012").unwrap();
        assert_eq!(role, Role::called("presence"));
        let below =
            Role::of_arn("arn:aws:iam::123456789012:role/eks/relays/presence", "123456789012").unwrap();
        assert_eq!((below.path.as_str(), below.name.as_str()), ("/eks/relays/", "presence"));
        for arn in ["presence", "arn:aws:iam::123456789012:user/presence", "arn:aws:iam::123456789012:role/"]
        {
            assert_eq!(Role::of_arn(arn, "123456789012"), Err(RoleError::Arn(arn.into())), "{arn}");
        }
        let other = Role::of_arn("arn:aws:iam::210987654321:role/presence", "123456789012");
        assert!(matches!(other, Err(RoleError::OtherAccount { .. })));
    }
}
