//! Permissions of the OAuth client. A client has every permission, but for those that are withheld, so that a test sees
//! what its program says of a missing one.

use std::collections::BTreeSet;

use crate::Simulator;
use crate::problem::Problem;

pub(crate) const VIEW_INTEGRATIONS: &str = "integrations:integration:view";
pub(crate) const ADD_INTEGRATIONS: &str = "integrations:integration:add";
pub(crate) const EDIT_INTEGRATIONS: &str = "integrations:integration:edit";
pub(crate) const DELETE_INTEGRATIONS: &str = "integrations:integration:delete";
pub(crate) const VIEW_PRESENCE_DEFINITIONS: &str = "presence:presenceDefinition:view";

impl Simulator {
    /// Withholds these permissions, such as `integrations:integration:add`, from every client; an empty list grants all.
    pub fn withhold_permissions(&self, permissions: impl IntoIterator<Item = String>) {
        *self.inner.withheld_permissions.lock() = permissions.into_iter().collect();
    }

    /// The permissions that no client has.
    #[must_use]
    pub fn withheld_permissions(&self) -> BTreeSet<String> {
        self.inner.withheld_permissions.lock().clone()
    }

    /// Passes where the permission is not withheld.
    pub(crate) fn require_permission(&self, permission: &str) -> Result<(), Problem> {
        if self.inner.withheld_permissions.lock().contains(permission) {
            return Err(Problem::missing_permission(permission));
        }
        Ok(())
    }
}
