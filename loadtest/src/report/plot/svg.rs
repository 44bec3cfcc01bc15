//! Elements of a drawing.

/// A point in pixels from the upper left.
pub(super) type Point = (f64, f64);

#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Svg {
        Svg {
            width,
            height,
            body: String::new(),
        }
    }

    pub(super) fn line(&mut self, from: Point, to: Point, class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.body.push_str(&format!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    pub(super) fn path(&mut self, path: &str, class: &str) {
        self.body
            .push_str(&format!("<path class=\"{class}\" d=\"{path}\"/>"));
    }

    pub(super) fn text(&mut self, at: Point, class: &str, text: &str) {
        let (x, y) = at;
        let text = escaped(text);
        self.body.push_str(&format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        ));
    }

    /// With what is shown under the pointer, if that is not empty.
    pub(super) fn rect(&mut self, at: Point, size: Point, class: &str, hover: &str) {
        let ((x, y), (width, height)) = (at, size);
        self.body.push_str(&format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\">{}</rect>",
            title(hover)
        ));
    }

    pub(super) fn circle(&mut self, at: Point, radius: f64, class: &str, hover: &str) {
        let (x, y) = at;
        self.body.push_str(&format!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">{}</circle>",
            title(hover)
        ));
    }

    /// `label` says what is drawn, for who cannot see it.
    pub(super) fn finish(self, label: &str) -> String {
        let Svg {
            width,
            height,
            body,
        } = self;
        let label = escaped(label);
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
             aria-label=\"{label}\">{body}</svg>"
        )
    }
}

/// Text that may stand in HTML and in its attributes.
pub(in crate::report) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn title(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("<title>{}</title>", escaped(text))
    }
}
