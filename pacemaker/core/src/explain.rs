//! `pm why`: plain sentences about how something stands, why, and what to do.

use common::api::Explanation;
use common::id::{ApplicationId, InstanceId, JobId};

use crate::sightings::Sightings;
use crate::state::State;

impl State {
    /// `pm why`.
    #[must_use]
    pub fn explain_application(
        &self,
        _application: ApplicationId,
        _sightings: &Sightings,
    ) -> Option<Explanation> {
        None
    }

    /// `pm why`.
    #[must_use]
    pub fn explain_instance(
        &self,
        _instance: InstanceId,
        _sightings: &Sightings,
    ) -> Option<Explanation> {
        None
    }

    /// `pm why`.
    #[must_use]
    pub fn explain_job(&self, _job: JobId, _sightings: &Sightings) -> Option<Explanation> {
        None
    }
}
