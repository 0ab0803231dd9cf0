//! A store that all threads share by reference.

use std::sync::Arc;

use relay_engine::store::{Backend, StoreError, TermClasses};

/// A backend behind a counted reference; clones are the same store.
#[derive(Debug)]
pub(crate) struct Shared<B>(Arc<B>);

impl<B> Shared<B> {
    pub(crate) fn new(backend: B) -> Self {
        Shared(Arc::new(backend))
    }
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<B: Backend + 'static> Backend for Shared<B> {
    type Reader<'a>
        = B::Reader<'a>
    where
        Self: 'a;
    type Writer<'a>
        = B::Writer<'a>
    where
        Self: 'a;

    fn classes(&self) -> TermClasses {
        self.0.classes()
    }

    fn reader(&self) -> Result<Self::Reader<'_>, StoreError> {
        self.0.reader()
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Self::Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.0.write(work)
    }
}
