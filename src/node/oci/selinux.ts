import type { SELinuxOption } from '../../../proto/gen/cri.ts';

/** SELinux labels of a pod or container. */
export interface SelinuxLabels {
  process: string;
  mount: string;
}

/**
 * The labels for the options of a request; missing parts get the values of the container-selinux policy. `level`
 * ("s0:c12,c34") is used when the options have none: its categories separate pods from each other, so the caller must
 * pass unused ones.
 */
export function selinuxLabels(options: SELinuxOption | undefined, level: string): SelinuxLabels {
  const user = options?.user || 'system_u';
  const range = options?.level || level;
  return {
    process: [user, options?.role || 'system_r', options?.type || 'container_t', range].join(':'),
    mount: [user, 'object_r', 'container_file_t', range].join(':'),
  };
}
