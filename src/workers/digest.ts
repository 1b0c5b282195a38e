/** The thread that makes the digest of one large blob beside the thread that unpacks it (image/blob-digest.ts). */
import { parentPort, workerData } from 'node:worker_threads';
import { type DigestWork, digestOfRing } from './image/digest-ring.ts';

if (!parentPort) throw new Error('this file is a worker thread’s');
parentPort.postMessage(digestOfRing(workerData as DigestWork));
