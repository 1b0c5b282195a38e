import { MessageChannel, type MessagePort } from 'node:worker_threads';
import type { Renew } from '../../workers/image/blob-source.ts';
import type { FromLayer, ToLayer } from '../../workers/image/line.ts';

export interface LayerChannelOptions {
  signal: AbortSignal;
  renew: Renew;
  onProgress: (downloaded: number) => void;
  /** The renewal of an authorization failed; the worker then reports the refusal itself. */
  onProblem: (error: unknown) => void;
}

/**
 * Main's end of the channel that goes with a layer to its worker (src/workers/image/line.ts). Disposing it closes the
 * channel.
 */
export class LayerChannel implements Disposable {
  /** Goes to the worker with the call. */
  readonly port: MessagePort;
  readonly #own: MessagePort;
  readonly #options: LayerChannelOptions;
  readonly #cancel = () => this.#send({ kind: 'cancel' });

  constructor(options: LayerChannelOptions) {
    const { port1, port2 } = new MessageChannel();
    this.#own = port1;
    this.port = port2;
    this.#options = options;
    port1.on('message', (message: FromLayer) => this.#receive(message));
    port1.unref();
    if (options.signal.aborted) this.#cancel();
    options.signal.addEventListener('abort', this.#cancel, { once: true });
  }

  #receive(message: FromLayer): void {
    const { renew, onProgress, onProblem } = this.#options;
    if (message.kind === 'progress') {
      onProgress(message.downloaded);
      return;
    }
    renew(message.refusal).then(
      (authorizations) => this.#send({ kind: 'authorizations', authorizations }),
      (error: unknown) => {
        onProblem(error);
        this.#send({ kind: 'authorizations', authorizations: undefined });
      },
    );
  }

  #send(message: ToLayer): void {
    this.#own.postMessage(message);
  }

  [Symbol.dispose](): void {
    this.#options.signal.removeEventListener('abort', this.#cancel);
    this.#own.close();
    this.port.close();
  }
}
