import type { LayerProgress } from '../../node/images/layer-store.ts';

const BAR = 24;
/** Seconds over which the rate is taken. */
const WINDOW = 3;

/** Bytes as people read them: 73.4 MiB. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** A bar for each layer, with its rate and the time that is left, redrawn in place on a terminal. */
export class LayerBars {
  readonly #out: NodeJS.WritableStream;
  readonly #on: boolean;
  /** Bytes of each layer at moments of the last seconds. */
  readonly #history = new Map<string, { at: number; bytes: number }[]>();
  #lines = 0;

  constructor(out: NodeJS.WritableStream, on: boolean) {
    this.#out = out;
    this.#on = on;
  }

  draw(title: string, layers: readonly LayerProgress[], now = performance.now() / 1000): void {
    if (!this.#on) return;
    const lines = [title, ...layers.map((layer) => this.line(layer, now))];
    this.clear();
    this.#out.write(`${lines.join('\n')}\n`);
    this.#lines = lines.length;
  }

  /** Removes what was drawn. */
  clear(): void {
    if (this.#lines > 0) this.#out.write(`\x1b[${this.#lines}A\x1b[J`);
    this.#lines = 0;
  }

  line({ digest, size, downloaded, state }: LayerProgress, now: number): string {
    const share = size === 0 ? 1 : Math.min(1, downloaded / size);
    const full = Math.round(share * BAR);
    const bar = `[${'='.repeat(full)}${' '.repeat(BAR - full)}]`;
    const head = `  ${digest.replace(/^sha256:/, '').slice(0, 12)} ${bar} ${bytesText(downloaded)} of ${bytesText(size)}`;
    if (state !== 'downloading') return `${head}  ${state}`;
    const rate = this.#rate(digest, downloaded, now);
    if (rate <= 0) return head;
    const left = Math.ceil((size - downloaded) / rate);
    return `${head}  ${bytesText(rate)}/s  ${downloaded >= size ? 'unpacking' : `${left} s left`}`;
  }

  #rate(digest: string, bytes: number, now: number): number {
    const history = (this.#history.get(digest) ?? []).filter(({ at }) => now - at <= WINDOW);
    history.push({ at: now, bytes });
    this.#history.set(digest, history);
    const [first] = history;
    return first && now > first.at ? (bytes - first.bytes) / (now - first.at) : 0;
  }
}
