//! Reads numbers from a page in Prometheus' text format.

/// Sum of a metric over its labels; `None` if the page does not have it.
pub fn sum(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE kvasir_kv_blocks_free gauge
kvasir_kv_blocks_free 10
kvasir_requests_total{path=\"/a\",status=\"200\"} 3
kvasir_requests_total{path=\"/b }\",status=\"404\"} 4.5
";

    #[test]
    fn sums_over_labels_and_takes_no_prefix_for_a_name() {
        assert_eq!(sum(PAGE, "kvasir_kv_blocks_free"), Some(10.0));
        assert_eq!(sum(PAGE, "kvasir_requests_total"), Some(7.5));
        assert_eq!(sum(PAGE, "kvasir_requests"), None);
        assert_eq!(sum(PAGE, "kvasir_kv"), None);
    }
}
