import { explain, SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';
import type { Cri } from '../cri/client.ts';
import { type Call, optionText } from './command.ts';

/** HTTP client of a daemon's /debug endpoints. */
export class DebugClient {
  readonly address: string;

  /** The address is that of `--metrics`, else that of the configuration. Throws CONFIG_INVALID when there is none. */
  constructor(call: Call) {
    this.address = optionText(call, 'metrics') ?? loadConfig(optionText(call, 'config')).metrics.listen;
    if (this.address === '') {
      throw new SluiceError('CONFIG_INVALID', 'metrics.listen is empty: this daemon has no metrics endpoint');
    }
  }

  /**
   * Resolves to the parsed JSON answer. Rejects with NOT_READY when no daemon answers within 10 s, and with
   * INVALID_REQUEST and the text of the answer when its status is not 2xx.
   */
  async call<T>(path: string, method: 'GET' | 'PUT' = 'GET'): Promise<T> {
    return (await (await this.#ask(path, method)).json()) as T;
  }

  /** The answer as text; likewise. */
  async text(path: string): Promise<string> {
    return (await this.#ask(path, 'GET')).text();
  }

  async #ask(path: string, method: 'GET' | 'PUT'): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(`http://${this.address}${path}`, {
        method,
        headers: method === 'PUT' ? { 'x-sluice': '1' } : {},
        signal: AbortSignal.timeout(10_000),
      });
    } catch (cause) {
      throw nobody(`${this.address} (metrics.listen)`, cause);
    }
    if (!response.ok) throw new SluiceError('INVALID_REQUEST', (await response.text()).trim());
    return response;
  }
}

/**
 * The CRI client of a command: of `--socket`, else of the configuration's socket. Throws NOT_READY when no daemon
 * answers. gRPC is loaded here and not before, since most commands do without.
 */
export async function criClient(call: Call): Promise<Cri> {
  const socket = optionText(call, 'socket') ?? loadConfig(optionText(call, 'config')).socket;
  const { connectCri } = await import('../cri/client.ts');
  const cri = connectCri(socket);
  try {
    await cri.version({}, { timeoutMs: 5000 });
  } catch (cause) {
    cri.close();
    throw nobody(socket, cause);
  }
  return cri;
}

const RUNNING = 'is sluiced running? (systemctl status sluiced)';
/** What a failure to connect means to a person, by what stands in the texts of gRPC and of Node's fetch. */
const WHY: [RegExp, string][] = [
  [/\bENOENT\b/, `there is no such socket: ${RUNNING}`],
  [/\bECONNREFUSED\b/, `nobody listens there: ${RUNNING}`],
  [/\bEACCES\b/, 'this user may not open it: run this as root'],
  [/\bDEADLINE_EXCEEDED\b|\btimeout\b/, 'it has not answered in time: sluiced is starting, or overloaded'],
];

function nobody(address: string, cause: unknown): SluiceError {
  const text = `no daemon answers at ${address}`;
  const [, words] = WHY.find(([pattern]) => pattern.test(explain(cause))) ?? [];
  return words ? new SluiceError('NOT_READY', `${text}: ${words}`) : new SluiceError('NOT_READY', text, { cause });
}
