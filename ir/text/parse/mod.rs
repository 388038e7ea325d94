//! Text to a model, by way of the messages of a file, so that import's checks hold for both.

mod attr;
mod cursor;
mod graph;
mod tensor;
mod ty;

use std::collections::HashSet;

use planish_proto::onnx::{FunctionProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};

use super::{
    ParseError,
    lexer::{Lexer, Token},
};
use crate::{
    Model,
    onnx::{ImportError, Problem, import},
};

pub(super) use attr::kind_name;

/// What to do about weights that a text leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fill {
    /// Draw them from a generator seeded by their name: floats scaled such that networks stay numerically tame, small
    /// integers.
    #[default]
    Seeded,
    /// Fail.
    Refuse,
}

/// How to parse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseOptions {
    /// What to do about weights that the text leaves out.
    pub fill: Fill,
    /// Bytes that all weights together may take which the text does not spell out. A short text can ask for any amount.
    pub max_filled: u64,
}

impl Default for ParseOptions {
    fn default() -> ParseOptions {
        ParseOptions { fill: Fill::Seeded, max_filled: 256 << 20 }
    }
}

/// Reads a model with the default options.
///
/// # Errors
/// If the text does not follow the syntax, or what it says is no model; the message shows the place.
pub fn parse(text: &str) -> Result<Model, ParseError> {
    parse_with(text, ParseOptions::default())
}

/// Reads a model. A text without `ir_version` has version 10, the first one that has everything the syntax can say.
///
/// # Errors
/// If the text does not follow the syntax, or what it says is no model; the message shows the place.
pub fn parse_with(text: &str, options: ParseOptions) -> Result<Model, ParseError> {
    let mut parser = Parser {
        text,
        lexer: Lexer::new(text),
        token: Token::End,
        start: 0,
        options,
        filled: 0,
        frames: Vec::new(),
        mentions: Vec::new(),
    };
    parser.advance()?;
    let message = parser.model()?;
    let refuse = |_: &_| Err("the text form has none".into());
    import(message, &refuse).map_err(|e| parser.locate(&e))
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The token at hand.
    token: Token<'a>,
    /// The byte at which it starts.
    start: usize,
    options: ParseOptions,
    /// Bytes of weights made so far that the text does not spell out.
    filled: u64,
    /// The graphs around the cursor, outermost first.
    frames: Vec<Frame>,
    /// Where names occur in nodes and outputs, to point at what import complains about.
    mentions: Vec<Mention>,
}

/// The names of one graph.
#[derive(Default)]
struct Frame {
    /// Inputs, weights with a value, and outputs of nodes.
    made: HashSet<String>,
    /// Entries without a value, which may be weights.
    entries: HashSet<String>,
    /// What its nodes, outputs and subgraphs read.
    read: HashSet<String>,
}

struct Mention {
    name: String,
    at: usize,
    defines: bool,
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

const MODEL_KEYS: &str = "a key of the model's header: `ir_version`, `opset_import`, `producer_name`, `producer_version`, \
                          `domain`, `model_version`, `doc_string` or `metadata_props`";
const FUNCTION_KEYS: &str = "a key of a function's header: `domain`, `overload`, `opset_import` or `doc_string`";

impl Parser<'_> {
    fn model(&mut self) -> Result<ModelProto> {
        let mut model = ModelProto { ir_version: Some(10), ..Default::default() };
        self.header(|p, key| {
            match key {
                "ir_version" => model.ir_version = Some(p.int()?),
                "opset_import" => model.opset_import = p.opsets()?,
                "producer_name" => model.producer_name = Some(p.string()?),
                "producer_version" => model.producer_version = Some(p.string()?),
                "domain" => model.domain = Some(p.string()?),
                "model_version" => model.model_version = Some(p.int()?),
                "doc_string" => model.doc_string = Some(p.string()?),
                "metadata_props" => model.metadata_props = p.metadata()?,
                _ => return Ok(Some(MODEL_KEYS)),
            }
            Ok(None)
        })?;
        let name = self.name("the name of the graph")?;
        model.graph = Some(self.graph(name)?);
        while self.token != Token::End {
            let function = self.function()?;
            model.functions.push(function);
        }
        Ok(model)
    }

    fn function(&mut self) -> Result<FunctionProto> {
        let mut function = FunctionProto::default();
        self.header(|p, key| {
            match key {
                "domain" => function.domain = Some(p.string()?),
                "overload" => function.overload = Some(p.string()?),
                "opset_import" => function.opset_import = p.opsets()?,
                "doc_string" => function.doc_string = Some(p.string()?),
                _ => return Ok(Some(FUNCTION_KEYS)),
            }
            Ok(None)
        })?;
        function.name = Some(self.name("a function")?);
        self.function_attributes(&mut function)?;
        self.function_body(&mut function)?;
        Ok(function)
    }

    /// `<key: value, …>`, if there is one. `entry` reads a value, or returns which keys there are.
    fn header(&mut self, mut entry: impl FnMut(&mut Self, &str) -> Result<Option<&'static str>>) -> Result<()> {
        if !self.eat('<')? {
            return Ok(());
        }
        loop {
            let at = self.start;
            let Token::Word(key) = self.token else { return Err(self.expected("a key of the header")) };
            self.advance()?;
            // The key comes first in the text, and so does the complaint about it.
            if self.token != Token::Mark(':') {
                return Err(self.expected("`:`"));
            }
            self.advance()?;
            if let Some(keys) = entry(self, key)? {
                return Err(self.error(at, format!("expected {keys}, found `{key:.40}`")));
            }
            if !self.eat(',')? {
                return self.expect('>', "`,` or `>`");
            }
        }
    }

    /// `["" : 17, …]`
    fn opsets(&mut self) -> Result<Vec<OperatorSetIdProto>> {
        self.pairs(|p, domain| Ok(OperatorSetIdProto { domain: Some(domain), version: Some(p.int()?) }))
    }

    /// `["key": "value", …]`
    fn metadata(&mut self) -> Result<Vec<StringStringEntryProto>> {
        self.pairs(|p, key| Ok(StringStringEntryProto { key: Some(key), value: Some(p.string()?) }))
    }

    fn pairs<T>(&mut self, mut pair: impl FnMut(&mut Self, String) -> Result<T>) -> Result<Vec<T>> {
        self.expect('[', "`[`")?;
        let mut all = Vec::new();
        if self.eat(']')? {
            return Ok(all);
        }
        loop {
            let key = self.string()?;
            self.expect(':', "`:`")?;
            all.push(pair(self, key)?);
            if !self.eat(',')? {
                self.expect(']', "`,` or `]`")?;
                return Ok(all);
            }
        }
    }

    /// The place in the text of what import found.
    fn locate(&self, e: &ImportError) -> ParseError {
        let of = |name: &str, defines: bool, skip: usize| {
            self.mentions.iter().filter(|m| m.name == name && m.defines == defines).nth(skip).map(|m| m.at)
        };
        let at = match &*e.problem {
            Problem::Duplicate(name) => of(name, true, 1).or_else(|| of(name, true, 0)),
            Problem::Dangling(name) => of(name, false, 0),
            Problem::Cycle(cycle) => cycle.names.iter().find_map(|name| of(name, true, 0)),
            _ => None,
        };
        self.error(at.unwrap_or(0), e.to_string())
    }
}
