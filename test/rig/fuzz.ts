/** Properties of parsers whose input others write, tried with inputs that fast-check makes. */
import fc from 'fast-check';

/**
 * Seeds that every run tries. Add the seed that fast-check prints with a failure, together with the mended parser: it
 * is then tried for ever. FUZZ_SEED tries another one (0: a new one each time), FUZZ_RUNS sets how many inputs each
 * seed makes.
 */
const SEEDS = [1, 20261126];
const RUNS = Number(process.env.FUZZ_RUNS ?? 300);

/** Asserts a property for each seed. `runs` is for one seed; slower properties take fewer. */
export async function holds<T>(property: fc.IAsyncProperty<T> | fc.IProperty<T>, runs = RUNS): Promise<void> {
  const { FUZZ_SEED } = process.env;
  const seeds = FUZZ_SEED === undefined ? SEEDS : [FUZZ_SEED === '0' ? Date.now() : Number(FUZZ_SEED)];
  for (const seed of seeds) await fc.assert(property as fc.IAsyncProperty<T>, { seed, numRuns: runs });
}

/** Bytes cut into chunks at arbitrary places. */
export const cut = (bytes: Buffer, sizes: readonly number[]): Buffer[] => {
  const chunks: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    if (at >= bytes.length) break;
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  if (at < bytes.length) chunks.push(bytes.subarray(at));
  return chunks;
};

export const sizes = fc.array(fc.integer({ min: 1, max: 64 }), { maxLength: 40 });
export const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** JSON of any shape in which these keys are frequent, at any place and with any value. */
export function jsonWith(keys: readonly string[], values: readonly unknown[]): fc.Arbitrary<unknown> {
  const key = fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...keys) },
    { weight: 1, arbitrary: fc.string({ maxLength: 8 }) },
  );
  return fc.letrec((tie) => ({
    any: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      fc.constantFrom(...values, null, true, 0, -1, 1.5, 2 ** 40, '', 'x'),
      fc.array(tie('any'), { maxLength: 4 }),
      fc.array(fc.tuple(key, tie('any')), { maxLength: 6 }).map((entries) => Object.fromEntries(entries)),
    ),
  })).any;
}
