/** The little statistics that benchmarks need. */

export interface Latencies {
  count: number;
  p50: number;
  p95: number;
  p99: number;
  max: number;
}

/** Quantiles by linear interpolation between the closest ranks; all 0 for no values. */
export function latencies(values: readonly number[]): Latencies {
  const sorted = [...values].sort((a, b) => a - b);
  return {
    count: sorted.length,
    p50: quantile(sorted, 0.5),
    p95: quantile(sorted, 0.95),
    p99: quantile(sorted, 0.99),
    max: sorted.at(-1) ?? 0,
  };
}

export function median(values: readonly number[]): number {
  return quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

/**
 * Where the true median lies, from the order of the values alone (sign test): the narrowest pair of ranks that holds it
 * with 95 % or more. Fewer than 6 values cannot give that: then it is their whole range, and `level` says what that is
 * worth.
 */
export function medianInterval(values: readonly number[]): { low: number; high: number; level: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const n = sorted.length;
  let rank = 0;
  let level = 1 - 2 ** (1 - n);
  // Each step inwards gives up, at both ends, the chance that just `rank` of n values lie beyond the true median.
  for (let chance = 2 ** -n; ; ) {
    chance *= (n - rank) / (rank + 1);
    if (level - 2 * chance < 0.95 || 2 * (rank + 1) >= n) break;
    rank++;
    level -= 2 * chance;
  }
  return { low: sorted[rank] ?? Number.NaN, high: sorted[n - 1 - rank] ?? Number.NaN, level };
}

function quantile(sorted: readonly number[], q: number): number {
  const at = (sorted.length - 1) * q;
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? 0;
  return low + (high - low) * (at - Math.floor(at));
}
