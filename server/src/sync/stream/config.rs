//! The configuration of `relay router`: a TOML file.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::peer::RelayUrl;
use super::super::ranges::Scope;
use super::position::Windows;
use crate::cli::database::unix_now;
use crate::cli::time::moment;

/// A file, as it is written. Unknown fields are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    connect_timeout_seconds: f64,
    silence_seconds: f64,
    backoff_first_seconds: f64,
    backoff_max_seconds: f64,
    cut_off_seconds: f64,
    overlap_seconds: f64,
    complete_seconds: f64,
    key: Option<String>,
    relay: Option<String>,
    metrics: Option<String>,
    stream: Vec<StreamTable>,
}

impl Default for File {
    fn default() -> Self {
        File {
            connect_timeout_seconds: 20.0,
            silence_seconds: 60.0,
            backoff_first_seconds: 1.0,
            backoff_max_seconds: 60.0,
            cut_off_seconds: 600.0,
            overlap_seconds: 3_600.0,
            complete_seconds: 86_400.0,
            key: None,
            relay: None,
            metrics: None,
            stream: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamTable {
    name: String,
    dir: Direction,
    urls: Vec<String>,
    filter: Option<Map<String, Value>>,
    filters: Option<Vec<Map<String, Value>>>,
    since: Option<String>,
}

/// Which way events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Send what is newly stored here
    Up,
    /// Store what is newly published there
    Down,
    /// Both
    Both,
}

impl Direction {
    pub(super) fn is_up(self) -> bool {
        self != Direction::Down
    }

    pub(super) fn is_down(self) -> bool {
        self != Direction::Up
    }
}

/// What a router does.
#[derive(Clone, Debug)]
pub(crate) struct RouterConfig {
    pub(super) timing: Timing,
    /// Where the key is: a file, or `env`.
    pub(crate) key: Option<String>,
    /// The relay that serves the folder, for ephemeral events.
    pub(crate) relay: Option<RelayUrl>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    pub(super) streams: Vec<StreamConfig>,
}

/// Times that hold for all streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) connect: Duration,
    /// Longest silence, and longest time without an answer.
    pub(super) silence: Duration,
    pub(super) backoff_first: Duration,
    pub(super) backoff_max: Duration,
    /// How long a relay that was cut off is left alone; twice as long each time.
    pub(super) cut_off: Duration,
    pub(super) windows: Windows,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamConfig {
    pub(super) name: String,
    pub(super) dir: Direction,
    pub(super) urls: Vec<RelayUrl>,
    /// As JSON.
    pub(super) filters: Vec<String>,
    /// How far back the first comparison goes, as it is written.
    pub(super) since: Option<String>,
}

impl RouterConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with its path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document = toml::Deserializer::parse(text).map_err(|error| error.to_string())?;
        let file: File = serde_path_to_error::deserialize(document).map_err(|error| {
            let path = error.path().to_string();
            // The error shows where it is, too.
            format!("`{path}`: {}", error.into_inner().to_string().trim_end())
        })?;
        let config = file.check()?;
        match config.streams.is_empty() {
            true => Err("there is no [[stream]]".to_owned()),
            false => Ok(config),
        }
    }

    /// One stream, named `stream`, with the default of everything else.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn of_one(
        dir: Direction,
        urls: &[String],
        filters: &[String],
        since: Option<&str>,
        silence: Option<f64>,
    ) -> Result<Self, String> {
        let mut file = File::default();
        file.silence_seconds = silence.unwrap_or(file.silence_seconds);
        let mut config = file.check()?;
        let stream = StreamConfig {
            name: "stream".to_owned(),
            dir,
            urls: read_urls("", urls)?,
            filters: if filters.is_empty() { vec!["{}".to_owned()] } else { filters.to_vec() },
            since: since.map(str::to_owned),
        };
        stream.check().map_err(|(field, why)| format!("--{field}: {why}"))?;
        config.streams = vec![stream];
        Ok(config)
    }
}

/// Seconds that a setting may have.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

impl File {
    fn check(self) -> Result<RouterConfig, String> {
        let time = |name: &str, seconds: f64, least: f64| match (least..=SECONDS_MAX).contains(&seconds) {
            true => Ok(Duration::from_secs_f64(seconds)),
            false => Err(format!("`{name}`: expected seconds, from {least} to {SECONDS_MAX}")),
        };
        let timing = Timing {
            connect: time("connect_timeout_seconds", self.connect_timeout_seconds, 0.1)?,
            silence: time("silence_seconds", self.silence_seconds, 0.1)?,
            backoff_first: time("backoff_first_seconds", self.backoff_first_seconds, 0.01)?,
            backoff_max: time("backoff_max_seconds", self.backoff_max_seconds, 0.01)?,
            cut_off: time("cut_off_seconds", self.cut_off_seconds, 0.01)?,
            windows: Windows {
                overlap: time("overlap_seconds", self.overlap_seconds, 0.0)?,
                complete_every: time("complete_seconds", self.complete_seconds, 0.0)?,
            },
        };
        let metrics = match self.metrics.as_deref().map(str::parse::<SocketAddr>) {
            Some(Ok(address)) if address.ip().is_loopback() => Some(address),
            Some(_) => return Err("`metrics`: expected a loopback address and a port".to_owned()),
            None => None,
        };
        let relay = self.relay.as_deref().map(str::parse).transpose();
        let relay = relay.map_err(|why| format!("`relay`: {why}"))?;
        let mut streams: Vec<StreamConfig> = Vec::with_capacity(self.stream.len());
        for (at, table) in self.stream.into_iter().enumerate() {
            let path = format!("stream[{at}].");
            let stream = table.check(&path)?;
            if streams.iter().any(|other| other.name == stream.name) {
                return Err(format!("`{path}name`: there is another stream named {}", stream.name));
            }
            streams.push(stream);
        }
        Ok(RouterConfig { timing, key: self.key, relay, metrics, streams })
    }
}

impl StreamTable {
    fn check(self, path: &str) -> Result<StreamConfig, String> {
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !is_name(&self.name) {
            return Err(format!(
                "`{path}name`: expected 1 to 64 letters, digits, hyphens, dots and underscores"
            ));
        }
        let filters = match (self.filter, self.filters) {
            (Some(_), Some(_)) => return Err(format!("`{path}filters`: there is a `filter` too")),
            (Some(filter), None) => vec![filter],
            (None, Some(filters)) if filters.is_empty() => {
                return Err(format!("`{path}filters`: is empty, so nothing would match"));
            }
            (None, Some(filters)) => filters,
            (None, None) => vec![Map::new()],
        };
        let filters = filters.into_iter().map(|filter| Value::Object(filter).to_string()).collect();
        let urls = read_urls(&format!("{path}urls"), &self.urls)?;
        let stream = StreamConfig { name: self.name, dir: self.dir, urls, filters, since: self.since };
        stream.check().map_err(|(field, why)| format!("`{path}{field}`: {why}"))?;
        Ok(stream)
    }
}

fn read_urls(path: &str, texts: &[String]) -> Result<Vec<RelayUrl>, String> {
    let path = if path.is_empty() { String::new() } else { format!("`{path}`: ") };
    let mut urls: Vec<RelayUrl> = Vec::with_capacity(texts.len());
    for text in texts {
        let url = text.parse().map_err(|why| format!("{path}{why}"))?;
        if urls.contains(&url) {
            return Err(format!("{path}{url} is there twice"));
        }
        urls.push(url);
    }
    if urls.is_empty() {
        return Err(format!("{path}names no relay"));
    }
    Ok(urls)
}

impl StreamConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.scopes().map_err(|why| ("filter", why))?;
        match &self.since {
            Some(since) if moment(since, 0).is_none() => {
                Err(("since", format!("{since}: expected Unix seconds, or how long ago, such as 7d")))
            }
            _ => Ok(()),
        }
    }

    /// The filters.
    pub(super) fn scopes(&self) -> Result<Vec<Scope>, String> {
        self.filters.iter().map(|filter| Scope::new(filter, None, None)).collect()
    }

    /// The second at which the first comparison begins, if one is named.
    pub(super) fn since(&self) -> Option<u64> {
        moment(self.since.as_deref()?, unix_now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let config = RouterConfig::parse(
            "metrics = '127.0.0.1:9100'\nrelay = 'ws://127.0.0.1:7777'\nsilence_seconds = 30\n\
             [[stream]]\nname = 'friends'\ndir = 'down'\nurls = ['wss://a.example', 'wss://b.example']\nsince = '7d'\n\
             [[stream]]\nname = 'mirror'\ndir = 'both'\nurls = ['wss://c.example']\n\
             filters = [{ kinds = [0, 3] }, { '#t' = ['x'] }]\n\
             [[stream]]\nname = 'notes'\ndir = 'up'\nurls = ['wss://a.example']\nfilter = { kinds = [1] }\n",
        )
        .unwrap();
        assert_eq!(config.timing.silence, Duration::from_secs(30));
        assert_eq!(config.timing.connect, Duration::from_secs(20));
        assert_eq!(config.metrics, Some("127.0.0.1:9100".parse().unwrap()));
        let streams: Vec<_> = config
            .streams
            .iter()
            .map(|stream| (&*stream.name, stream.dir, stream.urls.len(), stream.filters.join(" ")))
            .collect();
        assert_eq!(
            streams,
            [
                ("friends", Direction::Down, 2, "{}".to_owned()),
                ("mirror", Direction::Both, 1, r##"{"kinds":[0,3]} {"#t":["x"]}"##.to_owned()),
                ("notes", Direction::Up, 1, r#"{"kinds":[1]}"#.to_owned()),
            ]
        );
        assert!(config.streams[0].since().is_some() && config.streams[1].since().is_none());
    }

    /// The example in README.md, with its keys in the tables there.
    #[test]
    fn the_example_and_the_settings_of_the_readme_are_those_that_there_are() {
        let readme = include_str!("../../../../README.md");
        let section = readme.split("## Follow other relays live").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let example = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let config = RouterConfig::parse(example).unwrap();
        let streams: Vec<_> =
            config.streams.iter().map(|stream| (&*stream.name, stream.urls.len())).collect();
        assert_eq!(streams, [("friends", 2), ("cluster", 2), ("directory", 1)]);
        let fields = |error: String| {
            let list = error.split("expected one of ").nth(1).unwrap().to_owned();
            list.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let of_file = fields(RouterConfig::parse("x = 1").unwrap_err());
        let of_stream = fields(RouterConfig::parse("[[stream]]\nx = 1").unwrap_err());
        assert_eq!((of_file.len(), of_stream.len()), (11, 6));
        for field in of_file.iter().chain(&of_stream) {
            assert!(field == "stream" || section.contains(&format!("`{field}`")), "{field}");
        }
    }

    #[test]
    fn mistakes_are_named_by_their_path() {
        let stream = "[[stream]]\nname = 'a'\ndir = 'up'\nurls = ['wss://a.example']\n";
        for (text, want) in [
            (String::new(), "no [[stream]]"),
            ("stream = ".to_owned(), "TOML parse error"),
            (format!("silense_seconds = 3\n{stream}"), "silense_seconds"),
            (format!("silence_seconds = 0\n{stream}"), "`silence_seconds`: expected seconds"),
            (format!("silence_seconds = 'long'\n{stream}"), "`silence_seconds`"),
            (format!("metrics = '0.0.0.0:9100'\n{stream}"), "`metrics`: expected a loopback address"),
            (format!("relay = 'http://x'\n{stream}"), "`relay`: http://x"),
            (format!("{stream}nmae = 'x'\n"), "stream[0].nmae"),
            (format!("{stream}filter = {{ knids = [1] }}\n"), "`stream[0].filter`"),
            (format!("{stream}filter = {{ limit = 1 }}\n"), "`limit` has no meaning"),
            (
                format!("{stream}filter = {{}}\nfilters = [{{}}]\n"),
                "`stream[0].filters`: there is a `filter`",
            ),
            (format!("{stream}filters = []\n"), "`stream[0].filters`: is empty"),
            (format!("{stream}since = 'yore'\n"), "`stream[0].since`"),
            (format!("{stream}{stream}"), "`stream[1].name`: there is another"),
            (stream.replace("'up'", "'sideways'"), "stream[0].dir"),
            (stream.replace("name = 'a'\n", ""), "missing field `name`"),
            (stream.replace("'a'", "'a b'"), "`stream[0].name`"),
            (stream.replace("['wss://a.example']", "[]"), "`stream[0].urls`: names no relay"),
            (stream.replace("['wss", "['ftp://x', 'wss"), "`stream[0].urls`: ftp://x"),
            (stream.replace("example'", "example', 'wss://a.example'"), "is there twice"),
        ] {
            let got = RouterConfig::parse(&text).unwrap_err();
            assert!(got.contains(want), "{text}\n got: {got}\nwant: {want}");
        }
    }
}
