//! Flushing: keys in memory become a run of pages, and segments get their indices.

use std::sync::Arc;

use relay_engine::store::StoreError;
use relay_engine::store::lsm::{paginate, sort_keys};

use super::disk::{Disk, DiskFile, store_error};
use super::maintainer::{Maintainer, Swap};
use super::manifest::{Applied, SegmentEntry};
use super::segment::Segment;
use super::version::{FILTERED, Version};
use super::{Store, lock};

impl<D: Disk> Store<D> {
    /// Moves all keys in memory to a new run of level 0, if there are many.
    pub(super) fn flush(&self, maintainer: &mut Maintainer<D::File>) -> Result<bool, StoreError> {
        if !self.is_full(&self.version(), 1) {
            return Ok(false);
        }
        let (frozen, version) = {
            let _log = lock(&self.log);
            let mut version = Version::clone(&self.version());
            let frozen = version.memtable.freeze();
            let before = version.clone();
            self.publish(version);
            (frozen, before)
        };
        let Applied { position, ref removed, .. } = version.applied;
        let mut keys = frozen.keys_where(|key| key.seq().is_none_or(|seq| !removed.contains(seq)));
        sort_keys(&mut keys);
        let mut pages = Vec::new();
        let tiers = self.options.tiers(maintainer.manifest.head().slots);
        paginate(&keys, maintainer.state.directory.fresh_run(), tiers.page_bytes, FILTERED, &mut pages);
        let (sealed, entries) = self.seal(&version, position.segment)?;
        let new = maintainer.pages.write(&self.disk, &pages)?;
        let swap = Swap { new, flushed: Some(version.applied.clone()), segments: entries, ..Swap::default() };
        maintainer.commit(&swap)?;
        // In the end each page is merged once in each level.
        maintainer.merge_debt += swap.new.len() * maintainer.state.directory.levels();
        self.install(maintainer, Vec::new(), &swap.new, removed, |after| {
            after.memtable.remove_frozen(&frozen);
            after.unflushed_bytes -= version.unflushed_bytes;
            let segments = Arc::make_mut(&mut after.segments);
            for segment in segments.iter_mut() {
                if let Some(sealed) = sealed.iter().find(|sealed| sealed.number == segment.number) {
                    *segment = Arc::clone(sealed);
                }
            }
        });
        Ok(true)
    }

    /// Writes the indices of all segments before `number` that have none.
    #[allow(clippy::type_complexity, reason = "two lists of the same segments")]
    fn seal(
        &self,
        version: &Version<D::File>,
        number: u64,
    ) -> Result<(Vec<Arc<Segment<D::File>>>, Vec<(u64, Option<SegmentEntry>)>), StoreError> {
        let (mut sealed, mut entries) = (Vec::new(), Vec::new());
        for pair in version.segments.windows(2) {
            let [segment, _] = pair else { continue };
            if segment.number >= number || segment.is_sealed() {
                continue;
            }
            let name = segment.name();
            let failed = |error: std::io::Error| store_error(&name, &error);
            let (index, numbers) = segment.index()?;
            segment.file.write(segment.end(), &index).and_then(|()| segment.file.sync()).map_err(failed)?;
            let (generation, first_seq, end) = (segment.generation, segment.first_seq, segment.end());
            let file = self.disk.open(&name).map_err(failed)?;
            let entry = SegmentEntry { generation, first_seq, numbers, end };
            sealed.push(Arc::new(Segment::sealed(file, segment.number, &entry, None)?));
            entries.push((segment.number, Some(entry)));
        }
        Ok((sealed, entries))
    }
}
