//! The rules, a file for each part of the protocol.

mod conditional;
mod cors;
mod delete;
mod integrity;
mod list;
mod media;
mod mirror;
mod parts;
mod paths;
mod payment;
mod put_path;
mod races;
mod ranges;
mod report;
mod retrieve;
mod scope;
mod stored_scripts;
mod tokens;
mod upload;
mod upload_requirements;
mod wire;

use crate::suite::Rule;

/// Every rule. The one about all responses is the last, because it judges what the others have received.
pub(crate) fn all() -> Vec<Rule> {
    let groups = [
        cors::RULES,
        retrieve::RULES,
        paths::RULES,
        ranges::RULES,
        conditional::RULES,
        upload::RULES,
        integrity::RULES,
        stored_scripts::RULES,
        upload_requirements::RULES,
        mirror::RULES,
        media::RULES,
        payment::RULES,
        report::RULES,
        tokens::RULES,
        scope::RULES,
        list::RULES,
        delete::RULES,
        put_path::RULES,
        parts::RULES,
        wire::RULES,
        races::RULES,
        cors::LAST,
    ];
    groups.concat()
}
