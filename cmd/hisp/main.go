// Command hisp is the node: one binary for the servers, the operator's tools
// and the demo.
package main

func main() {}
