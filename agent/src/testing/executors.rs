//! An executor whose work is a call, so that the test's host decides what comes of it.

use bytes::Bytes;

use crate::executor::{
    Access, Executor, ExecutorContext, ExecutorError, HttpError, HttpEvent, HttpLimits, HttpRequest, Output,
    Step, Task,
};
use crate::manifest::Handler;

/// Where [`calling_executor`] calls.
pub const EXECUTOR_URL: &str = "https://executor.example/";

/// An executor that posts its inputs, a line each, to [`EXECUTOR_URL`]. The body of an answer with status 200 is the
/// result. With status 206 each piece of it is also sent as it comes. With 503 the attempt may be tried again (`retry-after`
/// counts), with any other it has failed; a broken connection may be tried again.
pub fn calling_executor(_handler: &Handler) -> Box<dyn Executor + Send> {
    Box::new(Calling { status: 0, retry_after: None, body: Vec::new() })
}

struct Calling {
    status: u16,
    retry_after: Option<u64>,
    body: Vec<u8>,
}

impl Executor for Calling {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        let mut lines: Vec<String> =
            task.history.iter().map(|said| format!("{:?}: {}", said.role, said.text)).collect();
        lines.extend(task.inputs.iter().map(|input| input.text.clone()));
        let params = task.params.iter().map(|(key, values)| format!("{key}={}", values.join(",")));
        lines.extend(params);
        steps.push(Step::Call(HttpRequest {
            method: "POST",
            url: EXECUTOR_URL.to_owned(),
            headers: Vec::new(),
            body: Bytes::from(lines.join("\n")),
            access: Access::Configured,
            allow_domains: Vec::new(),
            limits: HttpLimits { response_bytes_max: 1 << 20, deadline: task.deadline, redirects_max: 0 },
        }));
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>) {
        match event {
            HttpEvent::Head(status, headers) => {
                self.status = status;
                let retry_after = headers.iter().find(|(name, _)| name == "retry-after");
                self.retry_after = retry_after.and_then(|(_, value)| value.parse().ok());
            }
            HttpEvent::Chunk(bytes) => {
                if self.status == 206 {
                    steps.push(Step::Partial(String::from_utf8_lossy(&bytes).into_owned()));
                }
                self.body.extend_from_slice(&bytes);
            }
            HttpEvent::End if self.status < 300 => {
                let content = String::from_utf8_lossy(&self.body).into_owned();
                steps.push(Step::Done(Output { content, tokens: Some((3, 4)) }));
            }
            HttpEvent::End => steps.push(self.failed("http_status", self.status == 503)),
            HttpEvent::Failed(HttpError::Connection(_)) => steps.push(self.failed("connection", true)),
            HttpEvent::Failed(_) => steps.push(self.failed("response_size", false)),
        }
    }
}

impl Calling {
    fn failed(&self, cause: &'static str, is_retryable: bool) -> Step {
        Step::Failed(ExecutorError {
            message: "the work has failed".to_owned(),
            detail: format!("status {}", self.status),
            cause,
            is_retryable,
            retry_after: self.retry_after,
        })
    }
}
