//! The byte encoding of sessions: integers as LEB128, strings and lists with their length before them.
//!
//! The decoder validates everything: an attachment may have been written by another version.

use std::sync::Arc;

use relay_engine::relay::Progress;
use relay_engine::store::Seq;
use relay_engine::types::{ClientAddress, EventId, Filter, PubKey, TagFilter};

/// The bytes are not a valid encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Appends encoded values.
pub(super) struct Write<'a>(pub(super) &'a mut Vec<u8>);

impl Write<'_> {
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn address(&mut self, address: Option<ClientAddress>) {
        match address {
            None => self.bytes(&[]),
            Some(ClientAddress::V4(octets)) => self.bytes(&octets),
            Some(ClientAddress::V6(prefix)) => self.bytes(&prefix),
        }
    }

    fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(values.len() as u64);
        values.iter().for_each(|value| write(self, value));
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Live => self.number(0),
            Progress::Lagging { after } => {
                self.number(1);
                self.number(after.0);
            }
            Progress::Scanning { horizon, last } => {
                self.number(2);
                self.number(horizon.0);
                self.option(last, |write, (created_at, id)| {
                    write.number(created_at);
                    write.raw(&id.0);
                });
            }
        }
    }

    fn filter(&mut self, filter: &Filter) {
        self.option(filter.ids.as_deref(), |write, ids| write.list(ids, |write, id| write.raw(&id.0)));
        self.option(filter.authors.as_deref(), |write, keys| {
            write.list(keys, |write, key| write.raw(&key.0))
        });
        self.option(filter.kinds.as_deref(), |write, kinds| {
            write.list(kinds, |write, kind| write.number(u64::from(*kind)));
        });
        self.list(&filter.tags, |write, tag| {
            write.number(u64::from(tag.letter));
            write.list(&tag.values, |write, value| write.bytes(value));
        });
        self.option(filter.since, Self::number);
        self.option(filter.until, Self::number);
        self.option(filter.limit.map(u64::from), Self::number);
    }
}

/// The bytes of a list of filters.
pub(crate) fn filters_bytes(filters: &[Filter]) -> Vec<u8> {
    let mut out = Vec::new();
    Write(&mut out).list(filters, |write, filter| write.filter(filter));
    out
}

/// Decodes what [`filters_bytes`] has encoded.
pub(crate) fn filters_from(bytes: &[u8]) -> Result<Arc<[Filter]>, Malformed> {
    let mut read = Read(bytes);
    let filters = read.list(Read::filter)?;
    read.end()?;
    Ok(filters.into())
}

/// Decodes values from the front of a slice.
pub(super) struct Read<'a>(pub(super) &'a [u8]);

impl<'a> Read<'a> {
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        self.number()?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.small()?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed),
        }
    }

    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let len: usize = self.small()?;
        // Each element takes at least a byte, so a longer length is malformed and allocates nothing.
        if len > self.0.len() {
            return Err(Malformed);
        }
        (0..len).map(|_| read(self)).collect()
    }

    pub(super) fn progress(&mut self) -> Result<Progress, Malformed> {
        match self.number()? {
            0 => Ok(Progress::Live),
            1 => Ok(Progress::Lagging { after: Seq(self.number()?) }),
            2 => Ok(Progress::Scanning {
                horizon: Seq(self.number()?),
                last: self.option(|read| Ok((read.number()?, EventId(read.array()?))))?,
            }),
            _ => Err(Malformed),
        }
    }

    pub(super) fn address(&mut self) -> Result<Option<ClientAddress>, Malformed> {
        match *self.bytes()? {
            [] => Ok(None),
            [a, b, c, d] => Ok(Some(ClientAddress::V4([a, b, c, d]))),
            [a, b, c, d, e, f, g, h] => Ok(Some(ClientAddress::V6([a, b, c, d, e, f, g, h]))),
            _ => Err(Malformed),
        }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn filter(&mut self) -> Result<Filter, Malformed> {
        let boxed = |list: Vec<_>| list.into_boxed_slice();
        let mut filter = Filter {
            ids: self.option(|read| read.list(|read| Ok(EventId(read.array()?))))?.map(boxed),
            authors: self
                .option(|read| read.list(|read| Ok(PubKey(read.array()?))))?
                .map(Vec::into_boxed_slice),
            kinds: self.option(|read| read.list(Read::small))?.map(Vec::into_boxed_slice),
            tags: self.list(Read::tag)?.into(),
            since: self.option(Read::number)?,
            until: self.option(Read::number)?,
            limit: self.option(Read::small)?,
        };
        // The machine relies on sorted lists.
        filter.normalise();
        Ok(filter)
    }

    fn tag(&mut self) -> Result<TagFilter, Malformed> {
        let letter: u8 = self.small()?;
        if !letter.is_ascii_alphabetic() {
            return Err(Malformed);
        }
        Ok(TagFilter { letter, values: self.list(|read| read.bytes().map(Into::into))?.into() })
    }
}
