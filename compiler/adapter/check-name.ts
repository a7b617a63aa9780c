// Which names an adapter may have: they end up in paths, URLs and manifests.
import { AdapterName } from '../contract.ts'
import { type Problems, quote } from '../errors.ts'

export function checkName(name: string, problems: Problems): void {
  if (AdapterName.safeParse(name).success) return
  problems.add(
    'adapter-name',
    `adapter ${quote(name)}: a name has a–z, 0–9, ".", "_" and "-", at most 64, and begins with a letter or digit`,
  )
}
