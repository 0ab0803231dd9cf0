//! Deterministic text tools. A character is an extended grapheme cluster, a word and a sentence are those of UAX #29.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sha2::{Digest, Sha256};
use unicode_segmentation::UnicodeSegmentation;

use super::failure::cause;
use super::{Executor, ExecutorContext, ExecutorError, HttpEvent, Output, Step, Task, finish, joined_inputs};
use crate::manifest::{TextConfig, TextTool};

/// Sentences of an extract, unless the parameter `sentences` says otherwise.
const SENTENCES: usize = 3;
/// Most sentences that a customer can ask for.
const SENTENCES_MAX: usize = 100;

/// Works on all inputs, joined by line feeds.
pub(super) struct Text {
    pub(super) config: TextConfig,
}

impl Executor for Text {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        steps.push(match run(self.config.tool, task) {
            Ok(content) => finish(task.output_bytes_max, Output { content, tokens: None }),
            Err(message) => Step::Failed(ExecutorError::fatal(cause::INPUT, message, message)),
        });
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, _event: HttpEvent, _steps: &mut Vec<Step>) {}
}

fn run(tool: TextTool, task: &Task) -> Result<String, &'static str> {
    if task.inputs.is_empty() {
        return Err("this agent works on a text: send an input");
    }
    let text = joined_inputs(task);
    Ok(match tool {
        TextTool::Count => count(&text),
        TextTool::Extract => extract(&text, sentences(task)?),
        TextTool::Uppercase => text.to_uppercase(),
        TextTool::Lowercase => text.to_lowercase(),
        TextTool::Reverse => text.graphemes(true).rev().collect(),
        TextTool::Sha256 => faster_hex::hex_string(&Sha256::digest(text.as_bytes())),
    })
}

/// The parameter `sentences`.
fn sentences(task: &Task) -> Result<usize, &'static str> {
    match task.param("sentences") {
        None => Ok(SENTENCES),
        Some(value) => value
            .parse()
            .ok()
            .filter(|number| (1..=SENTENCES_MAX).contains(number))
            .ok_or("the parameter sentences must be a number from 1 to 100"),
    }
}

fn count(text: &str) -> String {
    json!({
        "lines": text.lines().count(),
        "words": text.unicode_words().count(),
        "characters": text.graphemes(true).count(),
        "bytes": text.len(),
    })
    .to_string()
}

/// The `wanted` sentences whose words are the most frequent ones on average, in the order of the text.
///
/// Words of more than half of the sentences, such as articles, distinguish none, so they do not count. Equal scores: the
/// earlier sentence.
fn extract(text: &str, wanted: usize) -> String {
    let sentences: Vec<&str> =
        text.unicode_sentences().map(str::trim).filter(|sentence| !sentence.is_empty()).collect();
    let words: Vec<Vec<String>> =
        sentences.iter().map(|sentence| sentence.unicode_words().map(str::to_lowercase).collect()).collect();
    let mut frequency: HashMap<&str, usize> = HashMap::new();
    let mut spread: HashMap<&str, usize> = HashMap::new();
    for sentence in &words {
        for word in sentence {
            *frequency.entry(word).or_default() += 1;
        }
        for word in sentence.iter().map(String::as_str).collect::<HashSet<_>>() {
            *spread.entry(word).or_default() += 1;
        }
    }
    let score = |sentence: &[String]| {
        let total: usize = sentence
            .iter()
            .filter(|word| spread[word.as_str()] * 2 <= sentences.len())
            .map(|word| frequency[word.as_str()])
            .sum();
        total as f64 / sentence.len().max(1) as f64
    };
    let mut best: Vec<(usize, f64)> =
        words.iter().enumerate().map(|(at, sentence)| (at, score(sentence))).collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    best.truncate(wanted);
    best.sort_by_key(|(at, _)| *at);
    best.iter().map(|(at, _)| sentences[*at]).collect::<Vec<_>>().join(" ")
}
