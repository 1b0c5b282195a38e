import { SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';

/** Common options of `sluice top`, `trace` and `log-level`, for parseArgs of node:util. */
export const CLIENT_OPTIONS = {
  metrics: { type: 'string' },
  config: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

export const CLIENT_HELP = `  --metrics HOST:PORT  address of the daemon's metrics endpoint (default: metrics.listen of the configuration)
  --config FILE        configuration file with that key (default /etc/sluice/config.toml)`;

/** HTTP client of a daemon's /debug endpoints. */
export class DebugClient {
  readonly address: string;

  constructor(options: { metrics?: string; config?: string }) {
    this.address = options.metrics ?? loadConfig(options.config).metrics.listen;
    if (this.address === '') {
      throw new SluiceError('CONFIG_INVALID', 'metrics.listen is empty: this daemon has no metrics endpoint');
    }
  }

  /**
   * Resolves to the parsed JSON answer. Rejects with NOT_READY when no daemon answers within 10 s, and with
   * INVALID_REQUEST and the text of the answer when its status is not 2xx.
   */
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
