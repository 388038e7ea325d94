//! Texts in a file, found once and read when they are needed.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// The longest line that is read; a longer one is no text.
const MAX_LINE: u64 = 16 << 20;

/// A file of texts.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// Of the JSON objects, where they are such.
    field: Option<String>,
}

/// Where a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1 on.
    number: u64,
    offset: u64,
    bytes: u64,
}

impl Lines {
    /// The file decides by its extension what its lines are.
    pub(super) fn open(path: &Path, field: Option<&str>) -> Result<Lines> {
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        ensure!(
            json || field.is_none(),
            "text.field: only .jsonl files have fields; a line of any other file is a text as a whole"
        );
        let field = json.then(|| field.unwrap_or("text").to_owned());
        Ok(Lines { path: path.to_owned(), field })
    }

    /// The lines that are not empty.
    pub(super) fn all(&self) -> Result<Vec<Line>> {
        let mut reader = BufReader::new(File::open(&self.path).context("cannot be opened")?);
        let (mut lines, mut offset, mut buffer) = (Vec::new(), 0, Vec::new());
        for number in 1.. {
            buffer.clear();
            let bytes = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut buffer)? as u64;
            if bytes == 0 {
                break;
            }
            ensure!(bytes <= MAX_LINE, "line {number} is longer than {} MiB; a line is one text", MAX_LINE >> 20);
            if !buffer.trim_ascii().is_empty() {
                lines.push(Line { number, offset, bytes });
            }
            offset += bytes;
        }
        ensure!(!lines.is_empty(), "there is no text in it");
        Ok(lines)
    }

    /// The text of a line.
    pub(super) fn text(&self, line: &Line) -> Result<String> {
        self.read(line).with_context(|| self.place(line))
    }

    fn read(&self, line: &Line) -> Result<String> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(line.offset))?;
        let mut bytes = Vec::new();
        file.take(line.bytes).read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes).ok().context("it is not UTF-8; convert the file")?;
        // Only the end of the line is no part of a text.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let text = if line.offset == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let Some(field) = &self.field else { return Ok(text.to_owned()) };
        let object: serde_json::Value = serde_json::from_str(text).context("it is no JSON")?;
        match object.get(field) {
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(_) => bail!("the field {field:?} is no string; text.field names another one"),
            None => {
                let names: Vec<String> =
                    object.as_object().into_iter().flat_map(|o| o.keys()).map(|k| format!("{k:?}")).collect();
                match names.is_empty() {
                    true => bail!("it is no JSON object with fields"),
                    false => bail!("there is no field {field:?}; give text.field, one of {}", names.join(", ")),
                }
            }
        }
    }

    /// For messages.
    pub(super) fn place(&self, line: &Line) -> String {
        format!("line {} of {}", line.number, self.path.display())
    }
}
