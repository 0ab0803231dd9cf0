//! The sequence of drafts: who publishes which kind of event, and to which earlier event it refers.
//!
//! Figures marked "Real" are measured on 2,343 real events gathered from public test fixtures; the tables give quantiles
//! as (permille, bytes or count).

use std::collections::VecDeque;

use super::author::Author;
use super::draft::{Draft, Unsigned, write_string};
use super::rng::{Rng, Zipf};
use super::{Options, text};
use crate::hex;

/// Real: content of the 468 notes that no bridge mirrored, in bytes.
const NOTE_BYTES: &[(usize, usize)] = &[
    (0, 1),
    (100, 9),
    (250, 34),
    (500, 85),
    (750, 174),
    (900, 328),
    (980, 800),
    (990, 1_300),
    (1000, 3_000),
];
/// Real: content of 559 profiles.
const PROFILE_BYTES: &[(usize, usize)] =
    &[(0, 40), (100, 163), (250, 274), (500, 383), (750, 497), (900, 604), (990, 1_144), (1000, 2_500)];
/// Real contact lists have 199 entries on average, a median of 88; a quarter of that here, else 1% of the events would
/// make a fifth of the bytes.
const FOLLOWS: &[(usize, usize)] =
    &[(0, 0), (100, 1), (250, 2), (500, 22), (750, 80), (900, 155), (1000, 257)];
/// Real: relays in a relay list.
const RELAYS: &[(usize, usize)] = &[(0, 2), (500, 3), (750, 4), (900, 6), (1000, 13)];
/// The real events hold no article; chosen.
const ARTICLE_BYTES: &[(usize, usize)] = &[(0, 200), (500, 900), (900, 2_800), (1000, 9_000)];
/// Real: the comment on a zap, mostly none.
const ZAP_BYTES: &[(usize, usize)] = &[(0, 0), (700, 0), (1000, 40)];
/// Real: what 517 reactions say, by frequency in a thousand.
const REACTIONS: &[(&str, usize)] = &[
    ("+", 465),
    ("🤙", 205),
    ("😂", 80),
    ("💜", 60),
    ("🔥", 50),
    ("🤣", 40),
    ("💯", 40),
    ("❤️", 40),
    ("-", 20),
];

/// How many of the newest notes can be answered, reacted to, reposted or zapped.
const NOTES_RECENT_MAX: usize = 4_096;
/// How many notes are popular at a time.
const NOTES_HOT: usize = 24;
/// Authors, counted from the last rank, that sign zap receipts.
const ZAP_SERVICES: usize = 8;

/// A note that later events refer to.
#[derive(Clone, Debug)]
struct Note {
    event: Unsigned,
    id: String,
    /// The first note of its thread, if it is an answer, and who wrote it.
    root: Option<(String, usize)>,
}

/// The generated events so far.
#[derive(Debug)]
pub(super) struct DraftGenerator {
    options: Options,
    rng: Rng,
    /// By rank, from 0.
    pub(super) authors: Vec<Author>,
    popularity: Zipf,
    hashtags: Zipf,
    notes: VecDeque<Note>,
    hot: Vec<Note>,
    articles: Vec<(usize, String)>,
    made: usize,
}

impl DraftGenerator {
    /// Before the first event of `options`.
    pub(super) fn new(options: &Options) -> Self {
        DraftGenerator {
            options: options.clone(),
            rng: Rng::new(&format!("relay-bench events {}", options.sequence), options.seed),
            authors: (0..options.authors as u64).map(|rank| Author::derive(options.seed, rank)).collect(),
            popularity: Zipf::new(options.authors),
            hashtags: Zipf::new(text::HASHTAGS_COUNT),
            notes: VecDeque::new(),
            hot: Vec::new(),
            articles: Vec::new(),
            made: 0,
        }
    }

    /// The next event, not yet signed.
    pub(super) fn next_event(&mut self) -> Unsigned {
        let created_at = self.options.created_at(self.made, &mut self.rng);
        self.made += 1;
        let author = self.popularity.draw(&mut self.rng);
        let draft = Draft { author, created_at, ..Draft::default() };
        // 60% notes, 25% reactions, 5% reposts, 4% profiles, 2% zaps, 2% articles, 1% relay lists, 1%
        // contact lists.
        match self.rng.below(100) {
            0..60 => self.note(draft),
            60..85 => self.reaction(draft),
            85..90 => self.repost(draft),
            90..94 => self.profile(draft),
            94..96 => self.zap(draft),
            96..98 => self.article(draft),
            98 => self.relay_list(draft),
            _ => self.contact_list(draft),
        }
    }

    /// Kind 1. Real: 39% to 50% are answers, 41% mention someone, 18% have hashtags, 8% an `r` tag.
    fn note(&mut self, draft: Draft) -> Unsigned {
        let mut tags = Vec::new();
        let mut root = None;
        if self.rng.chance(440)
            && let Some(parent) = self.pick_note()
        {
            root = Some(parent.root.clone().unwrap_or((parent.id.clone(), parent.event.author)));
            self.thread_tags(&parent, &mut tags);
        } else if self.rng.chance(100) {
            let someone = self.popularity.draw(&mut self.rng);
            tags.push(tag(["p", &self.authors[someone].pubkey]));
        }
        if self.rng.chance(180) {
            let wanted = if self.rng.chance(600) { 1 } else { 2 + self.rng.below(6) };
            for _ in 0..wanted {
                tags.push(tag(["t", &text::hashtag(self.hashtags.draw(&mut self.rng))]));
            }
        }
        let bytes = self.rng.quantile(NOTE_BYTES);
        let mut content = text::prose(&mut self.rng, bytes);
        if self.rng.chance(80) {
            let url = text::url(&mut self.rng);
            content.push(' ');
            content.push_str(&url);
            tags.push(tag(["r", &url]));
        }
        let event = Draft { kind: 1, tags, content, ..draft }.finish(&self.authors);
        self.remember(Note { id: hex::encode(&event.id), event: event.clone(), root });
        event
    }

    /// NIP-10. Real: 64% of the answers have one `e` tag, the others the root too; three of four have a
    /// relay and a marker.
    fn thread_tags(&mut self, parent: &Note, tags: &mut Vec<Vec<String>>) {
        let marked = self.rng.chance(600);
        let relay = if self.rng.chance(300) { text::relay(&mut self.rng) } else { "" };
        match &parent.root {
            Some((root, _)) if marked => tags.push(tag(["e", root, relay, "root"])),
            Some((root, _)) => tags.push(tag(["e", root])),
            None => {}
        }
        let marker = if parent.root.is_some() { "reply" } else { "root" };
        tags.push(if marked { tag(["e", &parent.id, relay, marker]) } else { tag(["e", &parent.id]) });
        tags.push(tag(["p", &self.authors[parent.event.author].pubkey]));
        if let Some((_, writer)) = parent.root
            && writer != parent.event.author
        {
            tags.push(tag(["p", &self.authors[writer].pubkey]));
        }
    }

    /// Kind 7. Real: 1.13 `e`, 1.15 `p`, 22% a `k` tag.
    fn reaction(&mut self, draft: Draft) -> Unsigned {
        let mut tags = self.target_tags();
        if self.rng.chance(220) {
            tags.push(tag(["k", "1"]));
        }
        let mut at = self.rng.below(1000);
        let said = REACTIONS.iter().find(|(_, permille)| {
            let found = at < *permille;
            at = at.wrapping_sub(*permille);
            found
        });
        let content = said.map_or("+", |(said, _)| said).to_owned();
        Draft { kind: 7, tags, content, ..draft }.finish(&self.authors)
    }

    /// Kind 6. Real: 27% carry the reposted event.
    fn repost(&mut self, draft: Draft) -> Unsigned {
        let Some(note) = self.pick_note() else {
            return self.note(draft);
        };
        let relay = text::relay(&mut self.rng);
        let tags = vec![tag(["e", &note.id, relay]), tag(["p", &self.authors[note.event.author].pubkey])];
        let content = if self.rng.chance(270) { note.event.sign(&self.authors) } else { String::new() };
        Draft { kind: 6, tags, content, ..draft }.finish(&self.authors)
    }

    /// Kind 0.
    fn profile(&mut self, draft: Draft) -> Unsigned {
        let wanted = self.rng.quantile(PROFILE_BYTES);
        let (name, picture, banner) =
            (text::name(&mut self.rng), text::url(&mut self.rng), text::url(&mut self.rng));
        let mut content = format!(r#"{{"name":"{name}","display_name":"{name}","picture":"{picture}""#);
        if wanted > 250 {
            content.push_str(&format!(r#","banner":"{banner}","nip05":"{name}@nostr.example""#));
            content.push_str(&format!(r#","lud16":"{name}@wallet.example","website":"""#));
        }
        let about = text::prose(&mut self.rng, wanted.saturating_sub(content.len() + 12));
        content.push_str(",\"about\":");
        write_string(&about, &mut content);
        content.push('}');
        Draft { kind: 0, content, ..draft }.finish(&self.authors)
    }

    /// Kind 9735, signed by one of a few services, holding the request that its sender signed.
    fn zap(&mut self, draft: Draft) -> Unsigned {
        let mut target = self.target_tags();
        target.truncate(2);
        let bytes = self.rng.quantile(ZAP_BYTES);
        let mut request_tags = target.clone();
        let amount = 21_000 * (1 + self.rng.below(100));
        request_tags.push(tag(["amount", &amount.to_string()]));
        let mut relays = vec!["relays".to_owned()];
        let relay_count = 1 + self.rng.below(6);
        relays.extend((0..relay_count).map(|_| text::relay(&mut self.rng).to_owned()));
        request_tags.push(relays);
        let content = text::prose(&mut self.rng, bytes);
        let request =
            Draft { kind: 9734, tags: request_tags, content, ..draft.clone() }.finish(&self.authors);

        let mut tags = target;
        if self.rng.chance(570) {
            tags.push(tag(["P", &self.authors[draft.author].pubkey]));
        }
        tags.push(tag(["bolt11", &text::invoice(&mut self.rng)]));
        if self.rng.chance(480) {
            tags.push(tag(["preimage", &text::hex(&mut self.rng, 64)]));
        }
        tags.push(tag(["description", &request.sign(&self.authors)]));
        let service = self.authors.len() - 1 - self.rng.below(ZAP_SERVICES.min(self.authors.len()));
        Draft { kind: 9735, author: service, tags, ..draft }.finish(&self.authors)
    }

    /// Kind 30023. A third are new versions of an earlier article.
    fn article(&mut self, draft: Draft) -> Unsigned {
        let (author, d) = match self.articles.len() {
            len @ 1.. if self.rng.chance(333) => self.articles[self.rng.below(len)].clone(),
            _ => {
                let fresh = (draft.author, format!("{}-{}", text::name(&mut self.rng), self.articles.len()));
                self.articles.push(fresh.clone());
                fresh
            }
        };
        let title = text::prose(&mut self.rng, 40);
        let mut tags = vec![
            tag(["d", &d]),
            tag(["title", &title]),
            tag(["published_at", &draft.created_at.to_string()]),
        ];
        for _ in 0..self.rng.below(4) {
            tags.push(tag(["t", &text::hashtag(self.hashtags.draw(&mut self.rng))]));
        }
        let bytes = self.rng.quantile(ARTICLE_BYTES);
        let content = text::prose(&mut self.rng, bytes);
        Draft { kind: 30023, author, tags, content, ..draft }.finish(&self.authors)
    }

    /// Kind 10002.
    fn relay_list(&mut self, draft: Draft) -> Unsigned {
        let wanted = self.rng.quantile(RELAYS);
        let mut relays: Vec<&str> = Vec::with_capacity(wanted);
        while relays.len() < wanted {
            let relay = text::relay(&mut self.rng);
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        let tags = relays
            .into_iter()
            .map(|relay| match self.rng.below(4) {
                0 => tag(["r", relay, "read"]),
                1 => tag(["r", relay, "write"]),
                _ => tag(["r", relay]),
            })
            .collect();
        Draft { kind: 10002, tags, ..draft }.finish(&self.authors)
    }

    /// Kind 3. Real: the content is empty or names relays.
    fn contact_list(&mut self, draft: Draft) -> Unsigned {
        let wanted = self.rng.quantile(FOLLOWS).min(self.authors.len() / 2);
        let mut followed = vec![false; self.authors.len()];
        let mut tags = Vec::with_capacity(wanted);
        while tags.len() < wanted {
            // Half of the followed authors are popular.
            let someone = match self.rng.below(2) {
                0 => self.popularity.draw(&mut self.rng),
                _ => self.rng.below(self.authors.len()),
            };
            if !std::mem::replace(&mut followed[someone], true) {
                tags.push(tag(["p", &self.authors[someone].pubkey]));
            }
        }
        let mut content = String::new();
        if self.rng.chance(500) {
            let relays: Vec<String> = (0..2 + self.rng.below(8))
                .map(|_| format!(r#""{}":{{"read":true,"write":true}}"#, text::relay(&mut self.rng)))
                .collect();
            content = format!("{{{}}}", relays.join(","));
        }
        Draft { kind: 3, tags, content, ..draft }.finish(&self.authors)
    }

    /// An `e` and a `p` tag for some note; before the first note only a `p` tag.
    fn target_tags(&mut self) -> Vec<Vec<String>> {
        let Some(note) = self.pick_note() else {
            return vec![tag(["p", &self.authors[0].pubkey])];
        };
        let mut tags = Vec::new();
        if let Some((root, _)) = &note.root
            && self.rng.chance(250)
        {
            tags.push(tag(["e", root]));
        }
        tags.push(tag(["e", &note.id]));
        tags.push(tag(["p", &self.authors[note.event.author].pubkey]));
        // If only two tags are needed, the note itself comes first.
        if tags.len() == 3 {
            tags.rotate_left(1);
        }
        tags
    }

    /// A note to answer: a popular one in 40% of the cases, else a recent one.
    fn pick_note(&mut self) -> Option<Note> {
        if !self.hot.is_empty() && self.rng.chance(400) {
            return Some(self.hot[self.rng.below(self.hot.len())].clone());
        }
        if self.notes.is_empty() {
            return None;
        }
        let back = self.rng.near(self.notes.len());
        self.notes.get(self.notes.len() - back).cloned()
    }

    fn remember(&mut self, note: Note) {
        // About one note in 60 becomes popular for a while.
        if self.hot.len() < NOTES_HOT {
            self.hot.push(note.clone());
        } else if self.rng.below(60) == 0 {
            let index = self.rng.below(NOTES_HOT);
            self.hot[index] = note.clone();
        }
        self.notes.push_back(note);
        if self.notes.len() > NOTES_RECENT_MAX {
            self.notes.pop_front();
        }
    }
}

fn tag<const N: usize>(fields: [&str; N]) -> Vec<String> {
    fields.iter().map(|field| (*field).to_owned()).collect()
}
