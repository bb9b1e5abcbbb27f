//! The flows of a registration's life.

use crate::Outcome;
use crate::stage::{Asked, RECOVERY_OF_PODS, Stage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// A route is made.
    Create,
    /// It subscribes to other events.
    Update,
    /// Its signing secret is another.
    Rotate,
    /// It moves to another organisation.
    Move,
    /// It is deleted.
    Delete,
}

impl Flow {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Rotate => "rotate",
            Self::Move => "move",
            Self::Delete => "delete",
        }
    }

    /// Sets the scene: the route as it is before, and right.
    pub(crate) async fn prepare(self, stage: &Stage, subject: Option<Asked>) -> Outcome<Asked> {
        let asked = subject.unwrap_or_else(|| stage.new_route(self.name()));
        stage.apply_secret(&asked).await?;
        if self != Self::Create {
            stage.apply_route(&asked).await?;
            stage.becomes(&asked, RECOVERY_OF_PODS).await?;
        }
        Ok(asked)
    }

    /// Does what a person does.
    pub(crate) async fn act(self, stage: &Stage, asked: &mut Asked) -> Outcome {
        match self {
            Self::Create => stage.apply_route(asked).await,
            Self::Update => {
                asked.with_second_event_type = !asked.with_second_event_type;
                stage.apply_route(asked).await
            }
            Self::Rotate => {
                asked.secret = format!("{}-", asked.secret);
                stage.apply_secret(asked).await
            }
            Self::Move => {
                asked.organisation = 1 - asked.organisation;
                stage.apply_route(asked).await
            }
            Self::Delete => {
                asked.is_deleted = true;
                stage.delete_route(asked).await
            }
        }
    }

    /// Clears up; gives the route where it is used again.
    pub(crate) async fn finish(self, stage: &Stage, mut asked: Asked) -> Outcome<Option<Asked>> {
        match self {
            Self::Create => {
                asked.is_deleted = true;
                stage.delete_route(&asked).await?;
                stage.becomes(&asked, RECOVERY_OF_PODS).await?;
                Ok(None)
            }
            Self::Delete => Ok(None),
            Self::Update | Self::Rotate | Self::Move => Ok(Some(asked)),
        }
    }
}
