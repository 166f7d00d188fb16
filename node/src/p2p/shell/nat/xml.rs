//! Picks texts out of a router's XML. No parser of XML: a scan that moves on with every step, keeps nothing, and calls what
//! it does not know nothing at all.
//!
//! A general parser was looked at (`xmltree` behind `igd-next`): it copies the namespaces in force into every element, so
//! that a description of 1 MiB with fifty namespaces costs 2 GB and one with 250 ends the process.

/// The end of an element, with its text if it has no elements inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its name without prefix.
    pub name: &'a str,
    /// What stands between its tags.
    pub text: Option<&'a str>,
}

/// The ends of elements, in order.
pub struct Pieces<'a> {
    rest: &'a str,
    open: Option<&'a str>,
}

impl<'a> Pieces<'a> {
    /// Of a document.
    pub const fn new(document: &'a str) -> Self {
        Self { rest: document, open: None }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            let (text, tail) = self.rest.split_once('<').unwrap_or_default();
            let (tag, rest) = match tail.strip_prefix("!--") {
                Some(comment) => ("!", comment.split_once("-->").map_or("", |(_, rest)| rest)),
                None => tail.split_once('>').unwrap_or_default(),
            };
            self.rest = rest;
            if tag.is_empty() {
                return None;
            }
            let opened = self.open.take();
            if let Some(name) = tag.strip_prefix('/').map(local) {
                let text = (opened == Some(name)).then(|| text.trim());
                return Some(Piece { name, text });
            }
            self.open = (!tag.starts_with(['?', '!']) && !tag.ends_with('/')).then(|| local(tag));
        }
    }
}

/// A tag's name without prefix and attributes.
fn local(tag: &str) -> &str {
    let name = tag.split_ascii_whitespace().next().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

/// The text of the first element of this name that has one.
pub fn text_of<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    Pieces::new(document).filter(|piece| piece.name == name).find_map(|piece| piece.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_come_in_order_and_leaves_have_their_text() {
        let document =
            "<?xml version=\"1.0\"?>\n<!-- <x>no</x> --><a xmlns:b=\"u\">\n <b:c d=\"e\"> 1 </b:c><f/><g></g></a>x";
        let pieces: Vec<_> = Pieces::new(document).map(|piece| (piece.name, piece.text)).collect();
        assert_eq!(pieces, [("c", Some("1")), ("g", Some("")), ("a", None)]);
        assert_eq!(text_of(document, "c"), Some("1"));
        assert_eq!(text_of(document, "x"), None, "a comment is no element");
        assert_eq!(text_of("<c><d>1</d></c><c>2</c>", "c"), Some("2"));
    }

    /// TH12. What has no end, or is no XML, is nothing.
    #[test]
    fn th12_xml_that_is_none_is_nothing() {
        for document in ["", "<", ">", "<>", "<a", "<!--", "<!-- <a>1</a>", "<a>1", "a>1</a", "</", "< />", "<<<>>>"] {
            assert_eq!(text_of(document, "a"), None, "{document}");
        }
    }

    /// TH12. The document that costs a general parser 2 GB is read like any other.
    #[test]
    fn th12_xml_with_many_namespaces_costs_what_its_bytes_cost() {
        let namespaces: String = (0..1_000).map(|number| format!(" xmlns:n{number}=\"u\"")).collect();
        let document = format!("<a{namespaces}>{}<c>1</c></a>", "<b></b>".repeat(100_000));
        let mut found = None;
        let used = allocation_counter::measure(|| found = text_of(&document, "c"));
        assert_eq!((found, used.bytes_total), (Some("1"), 0));
    }

    proptest! {
        /// TH12. Whatever comes, the scan ends, and gives no more pieces than there are tags.
        #[test]
        fn th12_xml_of_any_kind_ends(document in "[<>/!\\-ab: \"]{0,200}") {
            let tags = document.matches('<').count();
            prop_assert!(Pieces::new(&document).count() <= tags);
        }
    }
}
