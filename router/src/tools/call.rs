//! One call, an object of JSON, read character by character: its name as soon
//! as it is there, its arguments as they come.

/// What a character brought.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing to tell.
    None,
    /// The name is known.
    Name(String),
    /// The arguments have gone on; in [`Call::arguments`].
    Arguments,
    /// The call has ended, its last arguments with it.
    End,
    /// This is no call.
    NoCall,
}

/// Where in the object's outermost level the reader is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Before `{`.
    Start,
    /// Before a key, or the end.
    Key,
    InKey,
    Colon,
    /// Before a value.
    Value,
    InValue,
    /// After a value.
    Comma,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// A call as far as it is there.
#[derive(Debug)]
pub(super) struct Call {
    place: Place,
    field: Field,
    /// The key or value that is being read, as it stands.
    raw: String,
    /// Brackets open within the value.
    depth: usize,
    in_string: bool,
    escaped: bool,
    has_name: bool,
    has_arguments: bool,
    /// The name stood before; the arguments are all there is.
    is_named: bool,
    /// The arguments' JSON that was not taken yet.
    pub(super) arguments: String,
}

impl Call {
    pub(super) fn new() -> Call {
        Call {
            place: Place::Start,
            field: Field::Other,
            raw: String::new(),
            depth: 0,
            in_string: false,
            escaped: false,
            has_name: false,
            has_arguments: false,
            is_named: false,
            arguments: String::new(),
        }
    }

    /// Its name is known; what comes are its arguments.
    pub(super) fn named() -> Call {
        Call {
            place: Place::Value,
            field: Field::Arguments,
            has_name: true,
            is_named: true,
            ..Call::new()
        }
    }

    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    pub(super) fn push(&mut self, char: char) -> Step {
        match self.place {
            Place::InKey => self.key(char),
            Place::InValue => self.value(char),
            _ if char.is_ascii_whitespace() => Step::None,
            Place::Start if char == '{' => self.go(Place::Key),
            Place::Key if char == '"' => {
                self.raw = String::from(char);
                self.go(Place::InKey)
            }
            Place::Colon if char == ':' => self.go(Place::Value),
            Place::Value => {
                self.raw.clear();
                (self.depth, self.in_string, self.escaped) = (0, false, false);
                self.go(Place::InValue);
                self.value(char)
            }
            Place::Comma if char == ',' => self.go(Place::Key),
            Place::Comma | Place::Key if char == '}' => match self.has_name {
                true => Step::End,
                false => Step::NoCall,
            },
            _ => Step::NoCall,
        }
    }

    /// Whether the model said what to call it with.
    pub(super) fn has_arguments(&self) -> bool {
        self.has_arguments
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::None
    }

    fn key(&mut self, char: char) -> Step {
        self.raw.push(char);
        if !self.ends_string(char) {
            return Step::None;
        }
        self.field = match self.raw.as_str() {
            "\"name\"" => Field::Name,
            "\"arguments\"" | "\"parameters\"" => Field::Arguments,
            "\"id\"" | "\"type\"" | "\"index\"" => Field::Other,
            _ => return Step::NoCall,
        };
        self.go(Place::Colon)
    }

    /// Of a string that has begun.
    fn ends_string(&mut self, char: char) -> bool {
        if std::mem::take(&mut self.escaped) {
            return false;
        }
        self.escaped = char == '\\';
        char == '"'
    }

    fn value(&mut self, char: char) -> Step {
        if self.in_string {
            self.in_string = !self.ends_string(char);
            return match self.in_string || self.depth > 0 {
                true => self.content(char),
                false => self.last(char),
            };
        }
        match char {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            // Of a number or word, after its end.
            '}' | ',' if self.depth == 0 => {
                self.place = Place::Comma;
                return match self.ended() {
                    Step::None => self.push(char),
                    ended => ended,
                };
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return self.last(char);
                }
            }
            _ => {}
        }
        self.content(char)
    }

    fn content(&mut self, char: char) -> Step {
        // Arguments that come as text are unpacked when they are whole.
        if self.field == Field::Arguments && !self.is_text(char) {
            self.has_arguments = true;
            self.raw.push(char);
            self.arguments.push(char);
            return Step::Arguments;
        }
        self.raw.push(char);
        Step::None
    }

    fn is_text(&self, char: char) -> bool {
        match self.raw.chars().next() {
            Some(first) => first == '"',
            None => char == '"',
        }
    }

    fn last(&mut self, char: char) -> Step {
        let step = self.content(char);
        self.place = Place::Comma;
        if self.is_named {
            return Step::End;
        }
        match self.ended() {
            Step::None => step,
            ended => ended,
        }
    }

    /// A value is whole.
    fn ended(&mut self) -> Step {
        match self.field {
            Field::Other => Step::None,
            Field::Name => match serde_json::from_str(&self.raw) {
                Ok(name) => {
                    self.has_name = true;
                    Step::Name(name)
                }
                Err(_) => Step::NoCall,
            },
            Field::Arguments if !self.raw.starts_with('"') => Step::None,
            Field::Arguments => match serde_json::from_str::<String>(&self.raw) {
                Ok(text) => {
                    self.has_arguments = true;
                    self.arguments.push_str(&text);
                    Step::Arguments
                }
                Err(_) => Step::NoCall,
            },
        }
    }
}
