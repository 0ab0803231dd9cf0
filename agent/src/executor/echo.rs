//! Echo: the hello-world agent. It returns its inputs.

use super::{Executor, ExecutorContext, HttpEvent, Output, Step, Task, finish, joined_inputs};
use crate::manifest::EchoConfig;

/// Most customers send no input at all; they are told what this is.
pub(super) struct Echo {
    pub(super) config: EchoConfig,
}

impl Executor for Echo {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        let prefix = &self.config.prefix;
        let content = if task.inputs.is_empty() {
            format!("{prefix}Hello! I answer jobs of kind {} with the inputs I am sent.", task.kind)
        } else {
            format!("{prefix}{}", joined_inputs(task))
        };
        steps.push(finish(task.output_bytes_max, Output { content, tokens: None }));
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, _event: HttpEvent, _steps: &mut Vec<Step>) {}
}
