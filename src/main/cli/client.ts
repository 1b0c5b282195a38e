import { SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';

/** Options that `sluice top`, `trace` and `log-level` share, for node:util parseArgs. */
export const CLIENT_OPTIONS = {
  metrics: { type: 'string' },
  config: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

export const CLIENT_HELP = `  --metrics HOST:PORT  address of the daemon's metrics endpoint (default: metrics.listen of the configuration)
  --config FILE        configuration to take it from (default /etc/sluice/config.toml)`;

/** Talks to a daemon's /debug endpoints. */
export class DebugClient {
  readonly address: string;

  constructor(options: { metrics?: string; config?: string }) {
    this.address = options.metrics ?? loadConfig(options.config).metrics.listen;
    if (this.address === '') {
      throw new SluiceError('CONFIG_INVALID', 'metrics.listen is empty: this daemon has no metrics endpoint to ask');
    }
  }

  /** The JSON answer. Throws NOT_READY when no daemon answers, INVALID_REQUEST with the daemon's words when it says no. */
  async call<T>(path: string, method: 'GET' | 'PUT' = 'GET'): Promise<T> {
    let response: Response;
    try {
      response = await fetch(`http://${this.address}${path}`, {
        method,
        headers: method === 'PUT' ? { 'x-sluice': '1' } : {},
        signal: AbortSignal.timeout(10_000),
      });
    } catch (cause) {
      throw new SluiceError('NOT_READY', `no daemon answers at ${this.address} (metrics.listen)`, { cause });
    }
    if (!response.ok) throw new SluiceError('INVALID_REQUEST', (await response.text()).trim());
    return (await response.json()) as T;
  }
}
