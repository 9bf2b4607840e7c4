//! The scraped page: samples collected by metric name, encoded in Prometheus' text format.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::telemetry::{METRICS, MetricKind};

/// Samples of one scrape, in the order of [`METRICS`].
#[derive(Debug)]
pub(super) struct Page {
    samples: Vec<Vec<Metric>>,
}

impl Default for Page {
    fn default() -> Self {
        Self { samples: METRICS.iter().map(|_| Vec::new()).collect() }
    }
}

impl Page {
    /// Adds a counter's or gauge's value; `labels` are the values of the row's labels, in its order.
    pub(super) fn add(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.push(name, labels, |metric, kind| match kind {
            MetricKind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            MetricKind::Gauge | MetricKind::Histogram => {
                debug_assert!(kind == MetricKind::Gauge, "{name} is a histogram");
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
    }

    /// Adds a histogram: upper bounds, a count for each and one for what is above, the sum of all values.
    pub(super) fn add_histogram(
        &mut self,
        name: &'static str,
        labels: &[&str],
        bounds: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(counts.len());
        for (bound, &here) in bounds.zip(counts) {
            count += here;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        self.push(name, labels, |metric, kind| {
            debug_assert!(kind == MetricKind::Histogram, "{name} is not a histogram");
            metric.set_histogram(histogram);
        });
    }

    fn push(&mut self, name: &'static str, labels: &[&str], set: impl FnOnce(&mut Metric, MetricKind)) {
        let Some((row, samples)) = METRICS.iter().zip(&mut self.samples).find(|(row, _)| row.name == name) else {
            debug_assert!(false, "{name} is missing in the table");
            return;
        };
        debug_assert_eq!(row.labels.len(), labels.len(), "labels of {name}");
        let labels = row.labels.iter().zip(labels).map(|(&name, &value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        set(&mut metric, row.kind);
        samples.push(metric);
    }

    /// The text; a metric without samples is left out.
    pub(super) fn encode(self) -> String {
        let families: Vec<MetricFamily> = METRICS
            .iter()
            .zip(self.samples)
            .filter(|(_, samples)| !samples.is_empty())
            .map(|(row, samples)| {
                let mut family = MetricFamily::default();
                family.set_name(row.name.to_owned());
                family.set_help(row.help.to_owned());
                family.set_field_type(match row.kind {
                    MetricKind::Counter => MetricType::COUNTER,
                    MetricKind::Gauge => MetricType::GAUGE,
                    MetricKind::Histogram => MetricType::HISTOGRAM,
                });
                family.set_metric(samples);
                family
            })
            .collect();
        let mut text = String::new();
        TextEncoder::new()
            .encode_utf8(&families, &mut text)
            .expect("every family has a name and samples, and a string takes all that is written");
        text
    }
}
