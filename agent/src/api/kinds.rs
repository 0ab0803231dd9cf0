//! Names of job kinds, from the registry of data vending machines.

use relay_engine::types::Kind;

/// The name of a kind of jobs, if it is registered.
pub fn kind_name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        5000 => "Text extraction",
        5001 => "Summarization",
        5002 => "Translation",
        5050 => "Text generation",
        5100 => "Image generation",
        5200 => "Video conversion",
        5201 => "Video translation",
        5202 => "Image to video",
        5250 => "Text to speech",
        5300 => "Content discovery",
        5301 => "People discovery",
        5302 => "Content search",
        5303 => "People search",
        5400 => "Event count",
        5500 => "Malware scan",
        5900 => "Event timestamping",
        5901 => "Operation code execution",
        5905 => "Event publishing schedule",
        5970 => "Event proof-of-work",
        _ => return None,
    })
}
