// How every verb ends when it cannot go on: one message on stderr, exit 1 for the user's input, 2 for our fault.

/** What the user can change: says the subject, what was found, and what to do. */
export class UserError extends Error {
  override name = 'UserError'
}

/** Their messages are for the user as they stand. */
const SPOKEN: ReadonlySet<string> = new Set(['UserError', 'BackendError', 'PullError', 'PathError'])

const EXIT_USER = 1
const EXIT_OURS = 2

export function fail(error: unknown): never {
  const theirs = describe(error)
  if (theirs === undefined) {
    process.stderr.write(`sidepath: a fault of sidepath's own; please report it with this trace.\n${stackOf(error)}\n`)
    process.exit(EXIT_OURS)
  }
  process.stderr.write(`sidepath: ${theirs}\n`)
  process.exit(EXIT_USER)
}

/** The sentence for an error that is the user's to mend; undefined where it is ours. */
export function describe(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  if (hasProblems(error)) return error.problems.map(({ message }) => message).join('\nsidepath: ')
  if (SPOKEN.has(error.name)) return error.message
  const { code, path, syscall } = error as NodeJS.ErrnoException
  const subject = path === undefined ? 'a file' : `"${path}"`
  switch (code) {
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return `no permission to write or read ${subject}; choose another folder or change its permissions.`
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return `the disk is full while writing ${subject}; free some space and run it again.`
    case 'ENOENT':
      return syscall === 'mkdir'
        ? `the folder ${subject} cannot be made there; choose another place.`
        : `${subject} does not exist; check the path.`
    case 'ENOTDIR':
      return `${subject} needs a folder where there is a file; choose another path.`
    default:
      return undefined
  }
}

function hasProblems(error: Error): error is Error & { problems: { message: string }[] } {
  return 'problems' in error && Array.isArray(error.problems) && error.problems.length > 0
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
