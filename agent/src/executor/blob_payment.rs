//! Payment for Blossom (BUD-07): the job is a purchase, and is done when it is paid. What it is good for the machine decides
//! (`machine::purchases`).

use super::{Executor, ExecutorContext, HttpEvent, Output, Step, Task, finish, joined_inputs};

pub(super) struct BlobPayment;

impl Executor for BlobPayment {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        let content = format!("paid: {}", joined_inputs(task));
        steps.push(finish(task.output_bytes_max, Output { content, tokens: None }));
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, _event: HttpEvent, _steps: &mut Vec<Step>) {}
}
