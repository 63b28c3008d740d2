//! The runtime that openraft is given in unit tests: tokio, with every task in its machine.
//!
//! A task that is spawned by a task of a simulated machine belongs to the same machine: it stands
//! still while the machine is paused and is gone when the machine is. Its chance is drawn from the
//! run's seed. Outside a simulated machine this is tokio as it is in production.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

type Tokio = openraft::impls::TokioRuntime;
type Seeded = DeterministicRng<Tokio>;

tokio::task_local! {
    /// Whose task this is.
    static PROCESS: Process;
}

/// Runs `work`, with all chance in it drawn from `seed`.
pub(crate) fn seeded<F: Future>(seed: u64, work: F) -> impl Future<Output = F::Output> {
    Seeded::scope(seed, work)
}

/// Spawns a task that belongs to no machine: it never stands still.
pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Seeded::spawn(work)
}

/// Lets simulated time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "simulated time passes only so, and costs nothing"
)]
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The tasks of one start of one machine; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    stands: Stands,
    waiting: Vec<Waker>,
    running: Vec<AbortHandle>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stands {
    #[default]
    Running,
    Paused,
    Dead,
}

impl Process {
    /// Spawns a task of this process.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guarded = Guarded {
            process: self.clone(),
            work: Box::pin(PROCESS.scope(self.clone(), work)),
        };
        let handle = Seeded::spawn(guarded);
        let mut tasks = self.tasks();
        if tasks.running.len() >= 256 {
            tasks.running.retain(|task| !task.is_finished());
        }
        tasks.running.push(handle.abort_handle());
        handle
    }

    /// Stops all tasks where they stand, as SIGSTOP does.
    pub(crate) fn pause(&self) {
        let mut tasks = self.tasks();
        if tasks.stands == Stands::Running {
            tasks.stands = Stands::Paused;
        }
    }

    /// Lets them go on, as SIGCONT does.
    pub(crate) fn resume(&self) {
        let waiting = {
            let mut tasks = self.tasks();
            if tasks.stands == Stands::Paused {
                tasks.stands = Stands::Running;
            }
            std::mem::take(&mut tasks.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Ends all tasks where they stand, as SIGKILL does.
    pub(crate) fn kill(&self) {
        let running = {
            let mut tasks = self.tasks();
            tasks.stands = Stands::Dead;
            tasks.waiting.clear();
            std::mem::take(&mut tasks.running)
        };
        for task in running {
            task.abort();
        }
    }

    /// True from [`Process::kill`] on.
    pub(crate) fn is_dead(&self) -> bool {
        self.tasks().stands == Stands::Dead
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().expect("one thread runs the simulation")
    }
}

struct Guarded<F> {
    process: Process,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut tasks = self.process.tasks();
            match tasks.stands {
                Stands::Running => {}
                Stands::Paused => {
                    tasks.waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                Stands::Dead => return Poll::Pending,
            }
        }
        self.work.as_mut().poll(context)
    }
}

/// `tokio::task::spawn_blocking`; on a simulated machine the work is done at once.
pub(crate) async fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if PROCESS.try_with(|_| ()).is_ok() {
        Ok(work())
    } else {
        tokio::task::spawn_blocking(work).await
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(Tokio);

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match PROCESS.try_with(Process::clone) {
            Ok(process) => process.spawn(future),
            Err(_) => Tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        if PROCESS.try_with(|_| ()).is_ok() {
            return Seeded::thread_rng();
        }
        let seed = getrandom::u64().expect("the operating system has chance");
        Seeded::scope(seed, async { Seeded::thread_rng() })
            .now_or_never()
            .expect("drawing does not wait")
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        spawn_blocking(work).await.map_err(io::Error::other)
    }
}
