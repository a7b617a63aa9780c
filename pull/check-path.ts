// Names that come from a listing of strangers: which of them may become files of this machine.
import { PullError } from './errors.ts'

/** Linux takes 255 bytes a part; a character has at most 4 in UTF-8, but names this long are nobody's. */
const MAX_PART_CHARS = 128
const MAX_PATH_CHARS = 512
/** Devices of Windows, whatever their extension. */
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\.|$)/i
/** What is ours in the folder of a download. */
const OURS = /\.partial$|^sidepath-pull\.json$|^\.pulling\.json$/i

/** Throws for a path that would leave its folder on any system, wherever it stands in the listing. */
export function checkListed(repo: string, path: string): void {
  const parts = path.split('/')
  const leaves = parts.some((part) => part === '' || part === '.' || part === '..')
  if (!leaves && !/[\\\p{Cc}\p{Cs}]/u.test(path) && !/^[A-Za-z]:/.test(path)) return
  throw refused(repo, path, 'leaves its folder or is no path')
}

/** Throws for a set of paths that some system cannot hold side by side. */
export function checkChosen(repo: string, paths: readonly string[]): void {
  const seen = new Map<string, string>()
  for (const path of paths) {
    const parts = path.split('/')
    const long = path.length > MAX_PATH_CHARS || parts.some((part) => part.length > MAX_PART_CHARS)
    if (long) throw refused(repo, path, `is longer than ${MAX_PATH_CHARS}, or ${MAX_PART_CHARS} a part`)
    if (parts.some((part) => RESERVED.test(part) || /[<>:"|?*]|[. ]$/.test(part))) {
      throw refused(repo, path, 'is a name that Windows cannot hold')
    }
    if (parts.some((part) => OURS.test(part))) throw refused(repo, path, 'is a name that a pull uses itself')
    const key = fold(path)
    const other = seen.get(key)
    if (other !== undefined) throw refused(repo, path, `is listed twice, or beside ${JSON.stringify(other)}`)
    seen.set(key, path)
  }
  for (const path of paths) {
    for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) {
      if (seen.has(fold(path.slice(0, at)))) throw refused(repo, path, 'lies below a name that is a file')
    }
  }
}

/** One key for what a case-insensitive or normalising file system takes for one name. */
function fold(path: string): string {
  return path.normalize('NFC').toLowerCase()
}

function refused(repo: string, path: string, what: string): PullError {
  return new PullError(
    'path-refused',
    `${repo}: the file ${JSON.stringify(path.slice(0, 200))} ${what}; choose other files with --include, or another repository.`,
  )
}
