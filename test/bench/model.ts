/**
 * Straight lines through measured points: what a number is at n pods, from the points at fewer. Launch times, memory
 * and the time of a List are sums over pods, so that a line is the shape to expect; where a point lies off it,
 * something grows faster.
 */

export interface Model {
  /** Value without pods, and what each pod adds. */
  base: number;
  perPod: number;
  at(pods: number): number;
  /** Largest difference of a measured point from the line, as a share of the point. */
  worst: number;
}

/** Least squares; throws for fewer than two points. */
export function fit(points: readonly { pods: number; value: number }[]): Model {
  if (points.length < 2) throw new Error('a line needs two points');
  const mean = (of: (point: { pods: number; value: number }) => number) =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length;
  const pods = mean((point) => point.pods);
  const value = mean((point) => point.value);
  const variance = mean((point) => (point.pods - pods) ** 2);
  if (variance === 0) throw new Error('a line needs points at different numbers of pods');
  const perPod = mean((point) => (point.pods - pods) * (point.value - value)) / variance;
  const base = value - perPod * pods;
  const at = (count: number) => base + perPod * count;
  const worst = Math.max(...points.map((point) => Math.abs(at(point.pods) - point.value) / point.value));
  return { base, perPod, at, worst };
}
