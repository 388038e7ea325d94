//! The table, sorted by domain and name.

use super::OpSpec;

/// Every operator that is known, sorted by domain and name.
pub static TABLE: &[&OpSpec] = &[];
