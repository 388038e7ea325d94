//! Sessions to choose from. A run borrows a session mutably, so as many runs take place at a time as there are sessions.
//!
//! Each of them computes with one thread: what several threads sum up would depend on how many they are.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use ort::session::Session;

/// Bytes of weights that all sessions of a model may hold together; one is always made.
const TOGETHER: u64 = 512 << 20;

/// Sessions of one model.
pub(super) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
    most: usize,
}

struct State {
    free: Vec<Session>,
    /// How many there are, or are being made.
    made: usize,
}

impl Pool {
    /// A pool that begins with one session of a model with so many bytes of weights.
    pub(super) fn new(first: Session, weights: u64) -> Pool {
        let state = State { free: vec![first], made: 1 };
        Pool { state: Mutex::new(state), returned: Condvar::new(), most: Pool::most(weights) }
    }

    /// How many sessions of a model with so many bytes of weights there may be.
    pub(super) fn most(weights: u64) -> usize {
        let affordable = usize::try_from(TOGETHER / weights.max(1)).unwrap_or(usize::MAX);
        affordable.clamp(1, rayon::current_num_threads().max(1))
    }

    /// Runs something with a session that nobody else has: one that is free, or a new one, or else the next to be given back.
    pub(super) fn with<T>(
        &self,
        make: impl FnOnce() -> Result<Session>,
        run: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Result<T> {
        let session = self.take().map_or_else(make, Ok).inspect_err(|_| self.lose())?;
        // Given back also if the run panics.
        let mut lease = Lease { pool: self, session: Some(session) };
        lease.session.as_mut().context("there is no session").and_then(run)
    }

    /// A free session, or `None` if a new one is to be made.
    fn take(&self) -> Option<Session> {
        let mut state = self.lock();
        loop {
            if let Some(session) = state.free.pop() {
                return Some(session);
            }
            if state.made < self.most {
                state.made += 1;
                return None;
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One that was to be made is not.
    fn lose(&self) {
        self.lock().made -= 1;
        self.returned.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session on loan.
struct Lease<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool.lock().free.extend(self.session.take());
        self.pool.returned.notify_one();
    }
}
