//! `State::apply`: one exhaustive match that hands each command to its family.
//!
//! A family checks everything before it changes anything, so a refused command leaves no trace.
//! What follows from a change without any outside knowledge (a job's next step, a route) happens
//! in the same entry of the log, in [`jobs`]' `settle`.

mod applications;
mod builds;
mod crons;
mod instances;
mod jobs;
mod joins;
mod nodes;
mod packages;
mod placing;
mod steps;
mod workspaces;

use common::digest::Digest;
use common::id::Generation;

pub(crate) use self::crons::Replaceable;
pub(crate) use self::jobs::bounded;
pub(crate) use self::steps::is_busy_with;
use crate::action::Action;
use crate::command::{ApplyContext, Command, Outcome, Rejection, RejectionCode};
use crate::state::State;
use crate::state::limits::{ONCE_KEY_MAX_CHARACTERS, ONCE_KEYS_MAX};
use crate::state::records::OnceRecord;
use crate::transition::Transition;

impl State {
    /// Applies one command: total, synchronous, deterministic.
    ///
    /// # Errors
    /// A [`Rejection`] leaves the state untouched.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each command, which only hands it on"
    )]
    pub fn apply(&mut self, command: &Command, ctx: &ApplyContext) -> Result<Outcome, Rejection> {
        if let Command::Once { key, command } = command {
            return self.apply_once(key, command, ctx);
        }
        let is_initialization = matches!(command, Command::InitializeCluster { .. });
        if !is_initialization && !self.is_initialized() {
            return Err(reject(
                RejectionCode::ClusterState,
                "the cluster does not exist yet: initialise it first",
            ));
        }
        let mut transition = Transition::new(self, *ctx);
        let outcome = match command {
            Command::InitializeCluster {
                id,
                hostname,
                tokens,
                settings,
                join_tokens,
                founder,
            } => transition.initialize_cluster(&workspaces::Beginning {
                id,
                hostname,
                tokens,
                settings: *settings,
                join_tokens,
                founder: founder.as_ref(),
            }),
            Command::CreateJoinToken {
                hash,
                roles,
                expires,
            } => transition.create_join_token(hash, roles, *expires),
            Command::JoinNode { token, description } => transition.join_node(token, description),
            Command::DescribeNode { node, description } => {
                transition.describe_node(*node, description)
            }
            Command::DrainNode { node } => transition.drain_node(*node),
            Command::UndrainNode { node } => transition.undrain_node(*node),
            Command::RemoveNode { node } => transition.remove_node(*node),
            Command::CreateWorkspace { name, stub, tags } => {
                transition.create_workspace(name, stub, tags)
            }
            Command::RegisterNode { description } => transition.register_node(description),
            Command::CommitPackage { package } => transition.commit_package(package),
            Command::ForgetPackages { digests } => Ok(transition.forget_packages(digests)),
            Command::Deploy {
                workspace,
                spec,
                manifest,
                source,
                promote,
                cron_key,
            } => transition.deploy(&applications::Deployment {
                workspace,
                spec,
                manifest,
                source,
                promote: *promote,
                cron_key: cron_key.as_ref(),
            }),
            Command::StartVersion(target) => transition.start_version(*target),
            Command::StopVersion(target) => transition.stop_version(*target),
            Command::PromoteVersion(target) => transition.promote_version(*target),
            Command::DeregisterVersion(target) => transition.deregister_version(*target),
            Command::Rollback { application } => transition.roll_back(*application),
            Command::Scale {
                application,
                quantities,
            } => transition.scale(*application, quantities),
            Command::AbortJob { job } => transition.abort_job(*job),
            Command::Act {
                computed_at: _,
                actions,
            } => Ok(transition.act(actions)),
            Command::DecideCrons {
                runner,
                at,
                decisions,
            } => transition.decide_crons(crons::Deciding {
                runner: *runner,
                at: *at,
                decisions,
            }),
            Command::ReportCronRuns { runner, reports } => {
                transition.report_cron_runs(*runner, reports)
            }
            Command::StartCronRun { application, cron } => {
                transition.start_cron_run(*application, cron)
            }
            Command::SuspendCron { application, cron } => {
                transition.suspend_cron(*application, cron)
            }
            Command::ResumeCron { application, cron } => transition.resume_cron(*application, cron),
            Command::AbandonCronRuns { runner } => Ok(transition.abandon_cron_runs(*runner)),
            Command::Once { .. } => Err(reject(
                RejectionCode::Invalid,
                "a command carries one idempotency key, not two",
            )),
        }?;
        transition.finish();
        Ok(outcome)
    }

    /// Applies a command once per key; the answer to the first is the answer to all.
    ///
    /// A refusal is not remembered: it had no effect, so a repeated request is judged anew.
    fn apply_once(
        &mut self,
        key: &str,
        command: &Command,
        ctx: &ApplyContext,
    ) -> Result<Outcome, Rejection> {
        if key.is_empty() || key.chars().count() > ONCE_KEY_MAX_CHARACTERS {
            return Err(reject(
                RejectionCode::Invalid,
                format!("an idempotency key has 1 to {ONCE_KEY_MAX_CHARACTERS} characters"),
            ));
        }
        if matches!(command, Command::Once { .. }) {
            return Err(reject(
                RejectionCode::Invalid,
                "a command carries one idempotency key, not two",
            ));
        }
        let fingerprint = fingerprint(command)?;
        if let Some(record) = self.once.get(key) {
            if record.fingerprint != fingerprint {
                return Err(reject(
                    RejectionCode::Invalid,
                    format!(
                        "the idempotency key `{key}` was used for another request: use a new one"
                    ),
                ));
            }
            return Ok(record.outcome.clone());
        }
        let outcome = self.apply(command, ctx)?;
        self.remember(key, fingerprint, outcome.clone(), ctx.index);
        Ok(outcome)
    }

    fn remember(&mut self, key: &str, fingerprint: Digest, outcome: Outcome, index: Generation) {
        while self.once.len() >= ONCE_KEYS_MAX {
            let Some((_, oldest)) = self.once_order.pop_first() else {
                break;
            };
            self.once.remove(&oldest);
        }
        let record = OnceRecord {
            fingerprint,
            outcome,
        };
        self.once.insert(key.to_owned(), record);
        self.once_order.insert(index, key.to_owned());
    }
}

impl Transition<'_> {
    /// Carries out a plan, action by action; a stale one is skipped and told.
    fn act(&mut self, actions: &[Action]) -> Outcome {
        let mut rejected = Vec::new();
        for (position, action) in (0_u32..).zip(actions) {
            if let Err(rejection) = self.perform(action) {
                rejected.push((position, rejection));
            }
        }
        Outcome::Acted { rejected }
    }

    fn perform(&mut self, action: &Action) -> Result<(), Rejection> {
        match action {
            Action::MarkSilent { node, role } => self.mark_silent(*node, *role),
            Action::MarkHeard { node, role } => self.mark_heard(*node, *role),
            Action::Observe {
                instance,
                generation,
                assignment,
                seen,
            } => self.observe(*instance, *generation, *assignment, seen),
            Action::Forget {
                instance,
                generation,
            } => self.forget(*instance, *generation),
            Action::PresumeStopped {
                instance,
                generation,
            } => self.presume_stopped(*instance, *generation),
            Action::AssignBuild {
                job,
                node,
                instead_of,
            } => self.assign_build(*job, *node, *instead_of),
            Action::FinishBuild { job, node, package } => self.finish_build(*job, *node, package),
            Action::FailBuild { job, node, failure } => self.fail_build(*job, *node, failure),
            Action::Place {
                application,
                version,
                instance_type,
                node,
            } => self.place(*application, *version, instance_type, *node),
            Action::SetGoal {
                instance,
                generation,
                goal,
            } => self.change_goal(*instance, *generation, *goal),
            Action::Withdraw {
                instance,
                generation,
            } => self.withdraw(*instance, *generation),
            Action::BeginDrain {
                instance,
                generation,
            } => self.begin_drain(*instance, *generation),
            Action::Restore {
                instance,
                generation,
            } => self.restore(*instance, *generation),
            Action::Unassign {
                instance,
                generation,
            } => self.unassign(*instance, *generation),
            Action::CompleteStep { job, step } => self.complete_step(*job, *step),
            Action::EndWarm {
                application,
                version,
                until,
            } => self.end_warm(*application, *version, *until),
        }
    }
}

/// Makes a refusal.
pub(crate) fn reject(code: RejectionCode, message: impl Into<String>) -> Rejection {
    Rejection {
        code,
        message: message.into(),
    }
}

/// A refusal of an action whose ground has moved.
pub(crate) fn stale(message: impl Into<String>) -> Rejection {
    reject(RejectionCode::Stale, message)
}

/// Names a command by its content, so that a key is not used for two.
///
/// A deployment that is repeated comes with another random key for its crons, and is the same.
fn fingerprint(command: &Command) -> Result<Digest, Rejection> {
    let mut command = command.clone();
    if let Command::Deploy { cron_key, .. } = &mut command {
        *cron_key = None;
    }
    let bytes = serde_json::to_vec(&command).map_err(|error| {
        reject(
            RejectionCode::Invalid,
            format!("the request cannot be written as JSON ({error})"),
        )
    })?;
    Ok(Digest::of(&bytes))
}
