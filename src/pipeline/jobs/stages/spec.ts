import { join } from 'node:path';
import { NamespaceMode } from '../../../../proto/gen/cri.ts';
import { encodeSpec } from '../../../node/oci/encode.ts';
import { podNamespaceOptions } from '../../../node/oci/namespaces.ts';
import { readSeccomp } from '../../../node/oci/read-seccomp.ts';
import { buildSandboxSpec } from '../../../node/oci/sandbox.ts';
import { needsUserFiles, resolveUser, sandboxUser } from '../../../node/oci/users.ts';
import { filled, type PodLaunch } from '../launch.ts';

/** The pause container's OCI spec, by the pure builder in src/node/oci; what it needs of the disk is read here. */
export const spec = {
  async run(state: PodLaunch): Promise<void> {
    const { node, row, runtime } = state;
    const image = filled(state.image, 'image');
    const context = row.config.linux?.securityContext;
    const request = sandboxUser(context, image.config.User ?? '');
    const { passwd, group } = needsUserFiles(request) ? await node.images.userFiles(image) : { passwd: '', group: '' };
    const hostIpc = podNamespaceOptions(row.config)?.ipc === NamespaceMode.NODE;
    state.spec = encodeSpec(
      buildSandboxSpec({
        id: row.id,
        config: row.config,
        image: { reference: node.images.sandboxImage, config: image.config },
        user: resolveUser(request, passwd, group),
        netns: row.netns,
        userns: row.userns,
        shm: hostIpc ? '/dev/shm' : join(row.stateDir, 'shm'),
        resolvConf: join(row.rootDir, 'resolv.conf'),
        openFiles: node.openFiles,
        podAnnotations: runtime.pod_annotations,
        seccomp: await readSeccomp(context?.seccomp, context?.seccompProfilePath ?? '', context?.privileged ?? false),
        features: node.featuresOf(row),
        host: node.host,
      }),
    );
  },
};
