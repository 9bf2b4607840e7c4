// Package bench measures.
package bench

func Main(args []string) int { return 0 }
