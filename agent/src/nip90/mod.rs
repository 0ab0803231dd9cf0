//! NIP-90 on the wire: reading requests, writing feedback, results and announcements. Stateless.
