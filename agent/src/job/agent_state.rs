//! The states of an agent: which command leads from which state to which.

use crate::machine::AgentState;

/// What is asked of an agent as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// A manifest is deployed, the first one or another.
    Deploy,
    /// Take no new jobs; those that wait go on waiting.
    Pause,
    /// Take jobs again.
    Resume,
    /// Take no new jobs, and finish those that there are.
    Drain,
    /// Delete the agent. What is kept of it is a `RemovalRecord`.
    Delete,
}

impl Command {
    /// The command that leads to a state.
    pub fn to(state: AgentState) -> Self {
        match state {
            AgentState::Active => Command::Resume,
            AgentState::Paused => Command::Pause,
            AgentState::Draining => Command::Drain,
            AgentState::Deleted => Command::Delete,
        }
    }
}

impl AgentState {
    /// The state after `command`; `None` if it cannot be carried out in this one. A command that leads to the
    /// present state changes nothing. A new manifest leaves a paused agent paused; what was deleted begins anew.
    pub fn after(self, command: Command) -> Option<AgentState> {
        use AgentState as S;
        use Command as C;
        match (self, command) {
            (S::Deleted, C::Deploy) => Some(S::Active),
            (state, C::Deploy) => Some(state),
            (_, C::Delete) => Some(S::Deleted),
            (S::Deleted, _) => None,
            (S::Active | S::Paused, C::Pause) => Some(S::Paused),
            (S::Active | S::Paused | S::Draining, C::Resume) => Some(S::Active),
            (S::Active | S::Paused | S::Draining, C::Drain) => Some(S::Draining),
            (S::Draining, C::Pause) => None,
        }
    }

    /// Whether requests are accepted.
    pub fn takes_jobs(self) -> bool {
        self == AgentState::Active
    }

    /// Whether jobs that wait are begun.
    pub fn starts_jobs(self) -> bool {
        matches!(self, AgentState::Active | AgentState::Draining)
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            AgentState::Active => "active",
            AgentState::Paused => "paused",
            AgentState::Draining => "draining",
            AgentState::Deleted => "deleted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [AgentState; 4] =
        [AgentState::Active, AgentState::Paused, AgentState::Draining, AgentState::Deleted];
    const COMMANDS: [Command; 5] =
        [Command::Deploy, Command::Pause, Command::Resume, Command::Drain, Command::Delete];

    #[test]
    fn every_command_in_every_state() {
        use AgentState::{Active as A, Deleted as X, Draining as D, Paused as P};
        // Deploy, Pause, Resume, Drain, Delete
        let table = [
            (A, [Some(A), Some(P), Some(A), Some(D), Some(X)]),
            (P, [Some(P), Some(P), Some(A), Some(D), Some(X)]),
            (D, [Some(D), None, Some(A), Some(D), Some(X)]),
            (X, [Some(A), None, None, None, Some(X)]),
        ];
        for (state, expected) in table {
            let after = COMMANDS.map(|command| state.after(command));
            assert_eq!(after, expected, "{state:?}");
        }
    }

    #[test]
    fn a_command_twice_is_the_command_once() {
        for state in STATES {
            for command in COMMANDS {
                let Some(once) = state.after(command) else { continue };
                assert_eq!(once.after(command), Some(once), "{state:?} {command:?}");
            }
        }
    }

    #[test]
    fn what_takes_jobs_starts_them_and_a_deleted_agent_does_neither() {
        for state in STATES {
            assert!(!state.takes_jobs() || state.starts_jobs());
            assert!(state != AgentState::Deleted || !state.starts_jobs());
            assert_eq!(state.after(Command::to(state)), Some(state), "{state:?}");
        }
    }
}
