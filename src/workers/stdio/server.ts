import type {
  ExecBackend,
  ListenInput,
  Listening,
  StdioEvent,
  StdioStats,
  StreamRequest,
} from '../../main/streaming/protocol.ts';
import type { IoTable } from './io-table.ts';
import { Tokens } from './tokens.ts';

export interface ServerOptions {
  containers: IoTable;
  backend: ExecBackend;
  execDir: string;
  onEvent(event: StdioEvent): void;
}

export class StreamServer {
  readonly #tokens = new Tokens();
  constructor(_options: ServerOptions) {}
  get use(): Pick<StdioStats, 'sessions' | 'tokens'> {
    return { sessions: { exec: 0, attach: 0, portforward: 0 }, tokens: this.#tokens.size };
  }
  async listen(_: ListenInput): Promise<Listening> {
    throw new Error('later');
  }
  issue(request: StreamRequest): string {
    return `/${request.kind}/${this.#tokens.issue(request)}`;
  }
  async close(): Promise<void> {}
}
