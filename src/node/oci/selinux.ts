import type { SELinuxOption } from '../../../proto/gen/cri.ts';

/** Labels of a pod or container on an SELinux host. */
export interface SelinuxLabels {
  process: string;
  mount: string;
}

/**
 * The labels that the options describe; what is left out is what container-selinux's policy defines. `level` ("s0:c12,c34") is
 * used where the options have none: the categories that keep pods apart, given out by whoever knows those in use.
 */
export function selinuxLabels(options: SELinuxOption | undefined, level: string): SelinuxLabels {
  const user = options?.user || 'system_u';
  const range = options?.level || level;
  return {
    process: [user, options?.role || 'system_r', options?.type || 'container_t', range].join(':'),
    mount: [user, 'object_r', 'container_file_t', range].join(':'),
  };
}
