// Steps that must not overlap: each begins when the one before it has ended, however that ended.
export type InTurn = <T>(step: () => Promise<T>) => Promise<T>

export function createTurns(): InTurn {
  let last: Promise<unknown> = Promise.resolve()
  return (step) => {
    const result = last.then(step)
    last = result.catch(() => {})
    return result
  }
}
