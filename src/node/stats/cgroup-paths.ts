/** Where the cgroups of a process, of an OCI spec and of a pod lie (v1, hybrid and v2): for the verbs that must know it on main. */
export {
  anyFolder,
  type CgroupPaths,
  cgroupsOfParent,
  cgroupsOfProcess,
  cgroupsOfSpec,
  expandSlice,
} from '../../workers/stats/cgroups.ts';
