//! Words, hashtags, URLs: text of a given length that resembles real notes.
//!
//! 41% of the 763 real notes have non-ASCII characters, and 52% a line break or a quote; about 35% and 40% of the
//! generated ones.

use std::sync::LazyLock;

use super::rng::Rng;

type Words = LazyLock<Vec<&'static str>>;

macro_rules! words {
    ($text:literal) => {
        LazyLock::new(|| $text.split_ascii_whitespace().collect())
    };
}

const ALNUM: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";

static ENGLISH: Words = words!(
    "the a to and of in is it you that for on this with are not be have but was just so can my all \
     what your they like from about will if more one people time how we an or there get when now good \
     would think out up as at by new know no who because great relay relays client note notes zap \
     bitcoin nostr sats block price today morning night work love world build open protocol money \
     free post read write thanks really still never always first week years day way things make want \
     need something anything could should them their don't it's I'm can't running release version \
     update available working"
);
static ACCENTED: Words = words!(
    "él está más también años señal día é não você então für über schön größer être déjà où très här \
     från på även się że już nostr de la que un para com und der die och att bitcoin"
);
static CYRILLIC: Words = words!("это как что не на время сегодня новый люди слово хорошо мир да");
static JAPANESE: Words = words!(
    "おはよう ございます 今日は 天気 です ね リレー クライアント すごい ありがとう これ を 見て 寝る ノストラ 新しい 日本語 で"
);
static THAI: Words = words!("ธุรกิจ ไม่ ได้ เงิน วันนี้ คน ดี มาก ครับ");
static EMOJI: Words = words!("😂 🤙 🔥 💜 🫂 ⚡ 🚀 👀 ❤️ 🙏 ☕ 🌞 — … ’");
static HASHTAGS: Words = words!(
    "nostr bitcoin grownostr plebchain zap zapathon introductions coffeechain art photography foodstr \
     music news memestr gm lightning btc asknostr press travel privacy linux dev opensource nature \
     siamstr cashu ai science books"
);
static HOSTS: Words = words!(
    "image.nostr.build i.nostr.build void.cat www.youtube.com github.com cdn.satellite.earth \
     m.primal.net twitter.com primal.net njump.me medium.com en.wikipedia.org"
);
static RELAYS: Words = words!(
    "wss://relay.damus.io wss://nos.lol wss://relay.nostr.band wss://nostr.wine \
     wss://relay.snort.social wss://nostr-pub.wellorder.net wss://relay.primal.net \
     wss://relay.mostr.pub wss://eden.nostr.land wss://nostr.mom wss://offchain.pub \
     wss://purplepag.es wss://relay.current.fyi"
);

/// Number of different hashtags.
pub(super) const HASHTAGS_COUNT: usize = 300;

/// The hashtag of a rank below [`HASHTAGS_COUNT`].
pub(super) fn hashtag(rank: usize) -> String {
    match HASHTAGS.get(rank) {
        Some(tag) => (*tag).to_owned(),
        None => format!("{}{}", ENGLISH[rank % ENGLISH.len()].replace('\'', ""), rank),
    }
}

/// The address of a relay.
pub(super) fn relay(rng: &mut Rng) -> &'static str {
    rng.pick(&RELAYS)
}

/// The address of a page or picture, 30 to 110 bytes.
pub(super) fn url(rng: &mut Rng) -> String {
    let host = rng.pick(&HOSTS);
    match rng.below(3) {
        0 => format!("https://{host}/{}.jpg", rng.word(64, HEX)),
        1 => format!("https://{host}/{}", rng.word(11, ALNUM)),
        _ => {
            let slug: Vec<&str> = (0..3 + rng.below(8)).map(|_| rng.pick(&ENGLISH)).collect();
            format!("https://{host}/{}/{}", rng.word(4, ALNUM), slug.join("-").replace('\'', ""))
        }
    }
}

/// A name for a person.
pub(super) fn name(rng: &mut Rng) -> String {
    let len = 3 + rng.below(10);
    rng.word(len, ALNUM)
}

/// Hex digits.
pub(super) fn hex(rng: &mut Rng, len: usize) -> String {
    rng.word(len, HEX)
}

/// A Lightning invoice as long as the real ones of zaps, 270 to 420 characters. Nothing can be paid with it.
pub(super) fn invoice(rng: &mut Rng) -> String {
    const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let (amount, len) = (1 + rng.below(900), 260 + rng.below(150));
    format!("lnbc{amount}0n1p{}", rng.word(len, BECH32))
}

/// About `bytes` of prose, never more, and at least one byte if one is wanted.
pub(super) fn prose(rng: &mut Rng, bytes: usize) -> String {
    let (words, space): (&Words, _) = match rng.below(20) {
        0 => (&JAPANESE, ""),
        1 => (&CYRILLIC, " "),
        2 => (&THAI, ""),
        3 | 4 => (&ACCENTED, " "),
        _ => (&ENGLISH, " "),
    };
    // Some writers put an emoji every few words, some quotes and line breaks.
    let emoji_permille = if rng.chance(250) { 60 } else { 0 };
    let quote_permille = if rng.chance(200) { 30 } else { 0 };
    let break_permille = if rng.chance(600) { 120 } else { 0 };
    let mut text = String::with_capacity(bytes + 24);
    while text.len() < bytes {
        if !text.is_empty() {
            text.push_str(if rng.chance(break_permille) { "\n\n" } else { space });
        }
        let word = rng.pick(words);
        if rng.chance(quote_permille) {
            text.extend(["\"", word, "\""]);
        } else {
            text.push_str(word);
        }
        if rng.chance(emoji_permille) {
            text.extend([" ", rng.pick(&EMOJI)]);
        } else if rng.chance(80) {
            text.push_str(rng.pick(&[".", ",", "!", "?", ":"]));
        }
    }
    while text.len() > bytes {
        text.pop();
    }
    if text.is_empty() && bytes > 0 {
        text.push('x');
    }
    text
}
