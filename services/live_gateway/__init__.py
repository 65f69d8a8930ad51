"""The paper venue: takes orders from stream ORDERS, executes them against marks, reports on stream
EXECUTIONS.
"""
