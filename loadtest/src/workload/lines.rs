//! The lines of a file with their numbers, one at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::error::WorkloadError;

pub(super) struct Lines {
    path: String,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    /// Of the line read last, from 1.
    number: u64,
}

impl Lines {
    pub fn open(path: &str) -> Result<Lines, WorkloadError> {
        let file = File::open(path).map_err(|source| unreadable(path, source))?;
        Ok(Lines {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 18, file),
            buffer: Vec::new(),
            number: 0,
        })
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> Result<Option<&str>, WorkloadError> {
        loop {
            self.buffer.clear();
            let read = self.reader.read_until(b'\n', &mut self.buffer);
            if read.map_err(|source| unreadable(&self.path, source))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(text.trim_start_matches('\u{feff}').trim())),
            Err(_) => Err(self.bad("it is not UTF-8".to_owned(), "text")),
        }
    }

    /// That there is nothing in the file.
    pub fn empty(&self, hint: &'static str) -> WorkloadError {
        WorkloadError::Empty {
            path: self.path.clone(),
            hint,
        }
    }

    /// What is wrong with the line read last.
    pub fn bad(&self, reason: String, expected: &'static str) -> WorkloadError {
        WorkloadError::Line {
            path: self.path.clone(),
            line: self.number,
            reason,
            expected,
        }
    }
}

pub(super) fn unreadable(path: &str, source: io::Error) -> WorkloadError {
    WorkloadError::Read {
        path: path.to_owned(),
        source,
    }
}
